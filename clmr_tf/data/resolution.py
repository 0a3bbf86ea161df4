"""Resolves the value of --corpus to a prepared corpus: prepares it if necessary and checks it for changes."""

import hashlib
import importlib
import importlib.util
import logging
import re
from pathlib import Path
from types import ModuleType

import numpy as np

from clmr_tf.data.corpus import PCM_DTYPE, Corpus, holds_corpus, is_unmerged
from clmr_tf.data.index import Item
from clmr_tf.errors import UsageError

logger = logging.getLogger(__name__)

# This takes less than a tenth of a second; checking all of a large corpus would take minutes at every start.
_CHECKED_NUM_BYTES = 32 * 2**20
_PCM_BYTES = PCM_DTYPE.itemsize


def require_unchanged_audio(corpus: Corpus) -> None:
    """Compares items, evenly spread over the corpus, with their digests in the index.

    The fingerprint of a corpus covers its index only; this check covers the audio. A small corpus is checked
    completely. In a larger one, a replaced file is detected, but a single flipped bit may not be.

    Args:
        corpus: A corpus with storage "pcm" or "direct".

    Raises:
        UsageError: If an item has changed, or its file is missing.
    """
    num_items = len(corpus.index_rows)
    if not num_items:
        return
    is_direct = corpus.manifest.storage == "direct"
    sizes = corpus.index.column("source_num_bytes").to_numpy() if is_direct else _PCM_BYTES * corpus.num_samples
    num_checked = min(num_items, max(1, int(_CHECKED_NUM_BYTES / np.mean(sizes))))
    for item in corpus.items_at(np.linspace(0, num_items - 1, num_checked).round().astype(int)):
        if _digest(corpus, item) != item.digest:
            raise UsageError(
                f"The audio of {item.id} in {corpus.folder} has changed since it was prepared; prepare the music "
                "again, or restore a copy."
            )


def _digest(corpus: Corpus, item: Item) -> str | None:
    is_direct = corpus.manifest.storage == "direct"
    path, first_sample = (Path(item.file), 0) if is_direct else corpus.place_of(item.offset_samples)
    try:
        with path.open("rb") as file:
            file.seek(first_sample * _PCM_BYTES)
            content = file.read() if is_direct else file.read(item.num_samples * _PCM_BYTES)
    except OSError:
        return None
    return hashlib.sha256(content).hexdigest()[:16]


def resolve_corpus(
    corpus: str,
    *,
    corpora: Path,
    sample_rate_hz: int,
    clip_num_samples: int,
    reader: str | None = "prepared",
    max_skipped_fraction: float = 0.5,
) -> Corpus:
    """Opens the corpus that `corpus` refers to; prepares it under `corpora` if it is not prepared yet.

    Args:
        corpus: The name of a pipeline ("demo"), the folder of a prepared corpus, or a folder of audio files.
        corpora: Folder of prepared corpora.
        sample_rate_hz: Sample rate that the corpus must have.
        clip_num_samples: Shortest usable recording, in samples at that rate.
        reader: "prepared" for PCM, "direct" for an index of the compressed files; None accepts either in a prepared
            corpus, and otherwise prepares PCM.
        max_skipped_fraction: Fraction of a folder's audio files that may be unusable.

    Raises:
        UsageError: If it is none of these, or a prepared corpus of another rate or storage, or its audio has changed.
    """
    resolved = _open_or_prepare(corpus, corpora, sample_rate_hz, clip_num_samples, reader, max_skipped_fraction)
    require_unchanged_audio(resolved)
    return resolved


def _open_or_prepare(
    corpus: str,
    corpora: Path,
    sample_rate_hz: int,
    clip_num_samples: int,
    reader: str | None,
    max_skipped_fraction: float,
) -> Corpus:
    if not corpus:
        # The empty path would be the current folder.
        raise UsageError("The name of the corpus is empty; give --corpus a name, such as demo, or a folder of music.")
    folder = Path(corpus).expanduser()
    storage = "direct" if reader == "direct" else "pcm"
    if is_prepared(folder):
        opened = Corpus.open(folder)
        _check(opened, sample_rate_hz, clip_num_samples, opened.manifest.storage if reader is None else storage)
        return opened
    pipeline = _find_pipeline(corpus)
    if pipeline is None and not folder.exists():
        raise UsageError(f"There is no corpus named {corpus!r} and no such folder; give --corpus a folder of music.")
    if pipeline is None and not folder.is_dir():
        raise UsageError(f"{folder} is a file; give --corpus the folder that contains the music.")

    _require_own_pipelines()
    from pipelines.preparation.prepare import PrepareSettings

    settings = PrepareSettings(
        sample_rate_hz=sample_rate_hz,
        min_num_samples=clip_num_samples,
        reader="direct" if storage == "direct" else "prepared",
        max_skipped_fraction=max_skipped_fraction,
    )
    if pipeline is not None:
        if folder.is_dir():
            logger.warning(
                "%r is used as the name of a corpus, not as the folder %s; for the folder give ./%s.",
                corpus,
                folder.resolve(),
                corpus,
            )
        return pipeline.prepare_corpus(corpora / prepared_name(corpus, sample_rate_hz, storage), settings)
    from pipelines.folder import prepare_corpus

    digest = hashlib.sha256(str(folder.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    name = f"{re.sub(r'[^A-Za-z0-9_-]+', '-', folder.resolve().name).strip('-') or 'music'}-{digest}"
    return prepare_corpus(folder, corpora / prepared_name(name, sample_rate_hz, storage), settings)


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds a corpus or shards of one, which `Corpus.open` opens or says what to do with."""
    return is_unmerged(folder) or holds_corpus(folder)


def is_pipeline(name: str) -> bool:
    """Whether there is a pipeline for the corpus `name`."""
    return _find_pipeline(name) is not None


def prepared_name(name: str, sample_rate_hz: int, storage: str = "pcm") -> str:
    """Name of the folder of a prepared corpus under `corpora`."""
    return name + ("" if sample_rate_hz == 22050 else f"-{sample_rate_hz}hz") + ("" if storage == "pcm" else "-direct")


def _find_pipeline(name: str) -> ModuleType | None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        return None
    _require_own_pipelines()
    if importlib.util.find_spec(f"pipelines.{name}") is None:
        return None
    module = importlib.import_module(f"pipelines.{name}")
    return module if name != "folder" and hasattr(module, "prepare_corpus") else None


def _require_own_pipelines() -> None:
    """Raises UsageError if Python finds another package of this name first."""
    import pipelines

    found = Path(pipelines.__file__ or next(iter(pipelines.__path__))).resolve()
    if found.parent != Path(__file__).resolve().parents[2] / "pipelines":
        raise UsageError(
            f"Python finds another package called `pipelines`, {found}, before that of clmr_tf; "
            "rename it, or start in another folder."
        )


def _check(corpus: Corpus, sample_rate_hz: int, clip_num_samples: int, storage: str) -> None:
    manifest = corpus.manifest
    if manifest.sample_rate_hz != sample_rate_hz:
        raise UsageError(
            f"The corpus in {corpus.folder} has {manifest.sample_rate_hz} Hz, but the run needs {sample_rate_hz} Hz; "
            f"use --sample-rate-hz {manifest.sample_rate_hz} or prepare the music again."
        )
    if manifest.storage != storage:
        wanted = "prepared" if manifest.storage == "pcm" else "direct"
        raise UsageError(f"The corpus in {corpus.folder} was made for --reader {wanted}; use that option.")
    too_short = np.count_nonzero(corpus.num_samples < clip_num_samples)
    if too_short:
        raise UsageError(
            f"The corpus in {corpus.folder} has {too_short} items shorter than a clip of {clip_num_samples} samples; "
            f"prepare the music again with --min-num-samples {clip_num_samples}."
        )
