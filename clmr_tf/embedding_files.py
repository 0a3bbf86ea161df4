"""Embeds files: the body of `python -m clmr_tf.embed`."""

import dataclasses
import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from clmr_tf.audio_signatures import is_named_like_audio
from clmr_tf.embedding_stream import FileEmbedding, SkippedFile, stream_embeddings
from clmr_tf.embedding_table import FORMAT_VERSION, write_table
from clmr_tf.encoder import Encoder
from clmr_tf.errors import UsageError
from clmr_tf.evaluation.sources import weights_hash
from clmr_tf.files import write_atomically

OnFile = Callable[[int, int], None]
"""Is told how many files are done, and of how many."""


def find_files(paths: Sequence[Path]) -> list[Path]:
    """The files that are named, and those in folders and below whose names are those of audio files; each once.

    Raises:
        UsageError: If a path does not exist, or nothing is found.
    """
    found: dict[Path, None] = {}
    for path in map(Path.expanduser, paths):
        if not path.exists():
            raise UsageError(f"There is no file or folder {path}; name audio files, or folders of them.")
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        named = [one for one in inside if one.is_file() and (path.is_file() or is_named_like_audio(one.name))]
        found |= dict.fromkeys(named)
    if not found:
        raise UsageError(
            f"There is no audio file in {', '.join(map(str, paths))}; name audio files, or folders of them."
        )
    return list(found)


def embed_files(
    encoder: Encoder,
    files: Sequence[Path],
    out: Path,
    *,
    hop_seconds: float | None = None,
    batch_size: int = 32,
    on_file: OnFile = lambda done, of: None,
) -> tuple[list[FileEmbedding], list[SkippedFile]]:
    """Embeds files and writes all that came of it to one file; `clmr_tf.embedding_table` says which.

    What is finished of a list that was interrupted lies in a folder beside it, and is not computed again.

    Args:
        encoder: From `load_encoder`.
        files: At least one.
        out: The file to write, .npz or .parquet, replaced in one step at the end.
        hop_seconds: Distance between windows; the length of a window if None.
        batch_size: Windows in one call of the encoder.
        on_file: Told after each file.

    Returns:
        What was embedded, and what was skipped, each in the order of the files.

    Raises:
        UsageError: If the hop is less than a sample.
    """
    facts = {
        "format_version": FORMAT_VERSION,
        "model_hash": weights_hash(encoder),
        "sample_rate_hz": encoder.sample_rate_hz,
        "window_num_samples": encoder.clip_num_samples,
        "hop_num_samples": encoder.hop_num_samples(hop_seconds),
    }
    parts = out.with_name(f".{out.name}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    part_of = {path: parts / _part_name(path, facts) for path in files}
    missing = [path for path in files if _read_part(path, part_of[path]) is None]
    num_done = len(files) - len(missing)
    on_file(num_done, len(files))
    skipped = []
    for one in stream_embeddings(encoder, missing, hop_seconds=hop_seconds, batch_size=batch_size):
        if isinstance(one, SkippedFile):
            skipped.append(one)
        else:
            _write_part(one, part_of[one.path])
        num_done += 1
        on_file(num_done, len(files))
    not_used = {one.path for one in skipped}
    embedded = [_read_part(path, part_of[path]) for path in files if path not in not_used]
    write_table(out, embedded, skipped, facts)
    shutil.rmtree(parts)
    return embedded, skipped


def _part_name(path: Path, facts: dict[str, object]) -> str:
    status = path.stat()
    key = json.dumps([str(path.resolve()), status.st_size, status.st_mtime_ns, facts])
    return f"{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.npz"


def _write_part(embedding: FileEmbedding, part: Path) -> None:
    arrays = dataclasses.asdict(embedding)
    del arrays["path"]
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_atomically(part, content.getvalue())


def _read_part(path: Path, part: Path) -> FileEmbedding | None:
    try:
        with part.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return FileEmbedding(
                path,
                arrays["vectors"],
                arrays["times_seconds"],
                float(arrays["duration_seconds"]),
                bool(arrays["is_padded"]),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
