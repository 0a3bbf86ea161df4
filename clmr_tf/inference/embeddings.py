"""Computes embeddings of many files, writes them as a table, and reads the table."""

import dataclasses
import hashlib
import importlib
import io
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clmr_tf.audio.decoding import UNREADABLE, flaws_of
from clmr_tf.audio.isolation import IsolatedDecoder
from clmr_tf.audio.listing import SkippedFile
from clmr_tf.audio.windows import FileEnd, Window, stream_windows
from clmr_tf.console import printable
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.export.model_folder import weights_hash
from clmr_tf.files import UnreadableArraysError, exclusive_lock, read_arrays, require_writable, write_atomically
from clmr_tf.inference.encoder import Encoder
from clmr_tf.models.clip_encoder import EMBEDDING_DIM

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class FileEmbedding:
    """The embeddings of a file.

    Attributes:
        path: The file.
        vectors: Embeddings of its windows, float32 [n, 512], n >= 1.
        times_seconds: Start of each window, float64 [n].
        duration_seconds: Length of the recording.
        is_padded: Whether it is shorter than a window and was padded with zeros.
        is_silent: Whether its peak is below -80 dB, so that its embedding is meaningless.
        lost_seconds: Estimated length of what could not be decoded.
    """

    path: Path
    vectors: np.ndarray
    times_seconds: np.ndarray
    duration_seconds: float
    is_padded: bool
    is_silent: bool = False
    lost_seconds: float = 0.0


def stream_embeddings(
    encoder: Encoder,
    files: Sequence[Path],
    decoder: IsolatedDecoder,
    *,
    hop_seconds: float | None = None,
    batch_size: int = 32,
) -> Iterator[FileEmbedding | SkippedFile]:
    """Embeds files in order; decodes ahead, and fills batches with windows from several files.

    Args:
        encoder: From `load_encoder`.
        files: Audio files of any format, sample rate and length.
        decoder: Decodes the files.
        hop_seconds: Time between the starts of two windows. Default: the length of a window.
        batch_size: Windows per call of the encoder.

    Raises:
        UsageError: If the hop is shorter than a sample.
    """
    hop = encoder.hop_num_samples(hop_seconds)
    waiting: list[Window] = []
    ends: list[FileEnd] = []
    vectors: dict[int, list[np.ndarray]] = {}
    starts: dict[int, list[int]] = {}

    def encode() -> Iterator[FileEmbedding | SkippedFile]:
        if waiting:
            encoded = encoder.encode_clips(np.stack([window.audio for window in waiting]), batch_size)
            for window, vector in zip(waiting, encoded, strict=True):
                vectors.setdefault(window.file, []).append(vector)
                starts.setdefault(window.file, []).append(window.first_sample)
            waiting.clear()
        for end in ends:
            own, begins = vectors.pop(end.file, []), starts.pop(end.file, [])
            if end.error:
                yield SkippedFile(str(files[end.file]), end.error.reason, end.error.detail)
                continue
            yield FileEmbedding(
                files[end.file],
                np.stack(own),
                np.array(begins) / encoder.sample_rate_hz,
                end.report.num_samples / encoder.sample_rate_hz,
                end.report.num_samples < encoder.clip_num_samples,
                end.report.is_silent,
                end.report.lost_seconds,
            )
        ends.clear()

    for one in stream_windows(files, encoder.clip_num_samples, encoder.sample_rate_hz, hop, decoder):
        if isinstance(one, FileEnd):
            ends.append(one)
        else:
            waiting.append(one)
        if len(waiting) == batch_size:
            yield from encode()
    yield from encode()


def usable(embeddings: Iterable[FileEmbedding | SkippedFile]) -> Iterator[FileEmbedding]:
    """Yields the embeddings, and warns about skipped, silent and damaged files.

    Raises:
        ClmrError: At the end, if there were no embeddings.
    """
    num_used = num_skipped = 0
    for one in embeddings:
        if isinstance(one, SkippedFile):
            num_skipped += 1
            _LOG.warning("%s is skipped: %s.", printable(one.source), one.detail)
        else:
            num_used += 1
            for flaw in flaws_of(is_silent=one.is_silent, lost_seconds=one.lost_seconds):
                _LOG.warning("%s %s.", printable(str(one.path)), flaw)
            yield one
    if not num_used:
        raise ClmrError(f"None of the {num_skipped} files could be used as audio; see the warnings.")


FORMAT_VERSION = 1
SUFFIXES = (".npz", ".parquet")
_METADATA_KEY = b"clmr_tf"


@dataclasses.dataclass(frozen=True)
class SongEmbeddings:
    """The mean embedding of each file of a table.

    Attributes:
        paths: The files.
        means: Mean over the windows of each file, float32 [files, 512].
        silent_paths: Files that are silent.
        metadata: Format version, SHA-256 of the weights (`model_hash`), sample rate, window and hop in samples.
    """

    paths: tuple[str, ...]
    means: np.ndarray
    silent_paths: frozenset[str]
    metadata: dict[str, Any]


def require_table_name(out: Path) -> None:
    """Raises UsageError if a table cannot be written to this file; call it before hours of embedding."""
    if out.suffix not in SUFFIXES:
        raise UsageError(f"--out must be a file that ends in .npz or .parquet; received {out}.")
    require_writable(out, "--out")
    if out.suffix == ".parquet":
        _require_pyarrow()


def write_table(
    out: Path, embeddings: Sequence[FileEmbedding], skipped: Sequence[SkippedFile], metadata: dict[str, Any]
) -> None:
    """Writes a table atomically; docs/embedding.md describes its format.

    Args:
        out: Ends in .npz or .parquet.
        embeddings: Embeddings of the usable files.
        skipped: The other files.
        metadata: As in `SongEmbeddings`.
    """
    write = _parquet if out.suffix == ".parquet" else _npz
    write_atomically(out, write(embeddings, skipped, metadata))


def read_songs(path: Path) -> SongEmbeddings:
    """Reads the mean embeddings of a table; for an .npz file, without reading those of the windows.

    Raises:
        UsageError: If it is not a table of embeddings, or is damaged.
    """
    if path.suffix == ".parquet":
        _require_pyarrow()
    try:
        songs = _songs_of_parquet(path) if path.suffix == ".parquet" else _songs_of_npz(path)
        is_table = (
            songs.means.shape == (len(songs.paths), EMBEDDING_DIM)
            and bool(np.isfinite(songs.means).all())
            and all(isinstance(name, str) for name in songs.paths)
            and isinstance(songs.metadata["model_hash"], str)
            and songs.metadata["hop_num_samples"] >= 1
        )
        version = songs.metadata["format_version"]
    # pyarrow raises ValueError, KeyError and OSError.
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UsageError(
            f"{path} is not a readable table of embeddings; give a file written by `python -m clmr_tf.embed`."
        ) from error
    if version != FORMAT_VERSION or not is_table:
        raise UsageError(f"{path} is damaged or of another version; embed the files again.")
    return songs


def _npz(embeddings: Sequence[FileEmbedding], skipped: Sequence[SkippedFile], metadata: dict[str, Any]) -> bytes:
    empty = np.zeros((0, EMBEDDING_DIM), np.float32)
    content = io.BytesIO()
    np.savez(
        content,
        vectors=np.concatenate([empty, *(one.vectors for one in embeddings)]),
        times_seconds=np.concatenate([np.zeros(0), *(one.times_seconds for one in embeddings)]),
        file_index=np.repeat(np.arange(len(embeddings)), [len(one.vectors) for one in embeddings]),
        paths=np.array([str(one.path) for one in embeddings], np.str_),
        means=np.stack([one.vectors.mean(axis=0) for one in embeddings]) if embeddings else empty,
        durations_seconds=np.array([one.duration_seconds for one in embeddings]),
        is_padded=np.array([one.is_padded for one in embeddings], bool),
        is_silent=np.array([one.is_silent for one in embeddings], bool),
        lost_seconds=np.array([one.lost_seconds for one in embeddings]),
        skipped_paths=np.array([one.source for one in skipped], np.str_),
        skipped_reasons=np.array([one.detail for one in skipped], np.str_),
        metadata=np.array(json.dumps(metadata)),
    )
    return content.getvalue()


def _songs_of_npz(path: Path) -> SongEmbeddings:
    arrays = read_arrays(path, "paths", "means", "is_silent", "metadata")
    paths = arrays["paths"]
    silent_paths = frozenset(paths[arrays["is_silent"]].tolist())
    return SongEmbeddings(tuple(paths.tolist()), arrays["means"], silent_paths, json.loads(str(arrays["metadata"])))


def _parquet(embeddings: Sequence[FileEmbedding], skipped: Sequence[SkippedFile], metadata: dict[str, Any]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    counts = [len(one.vectors) for one in embeddings]
    vectors = np.concatenate([np.zeros((0, EMBEDDING_DIM), np.float32), *(one.vectors for one in embeddings)])
    columns = {
        "path": pyarrow.array(np.repeat([printable(str(one.path)) for one in embeddings], counts), pyarrow.string()),
        "time_seconds": np.concatenate([np.zeros(0), *(one.times_seconds for one in embeddings)]),
        "duration_seconds": np.repeat(np.array([one.duration_seconds for one in embeddings]), counts),
        "is_padded": np.repeat(np.array([one.is_padded for one in embeddings], bool), counts),
        "is_silent": np.repeat(np.array([one.is_silent for one in embeddings], bool), counts),
        "lost_seconds": np.repeat(np.array([one.lost_seconds for one in embeddings]), counts),
        "embedding": pyarrow.FixedSizeListArray.from_arrays(vectors.ravel(), EMBEDDING_DIM),
    }
    encoded = json.dumps({"metadata": metadata, "skipped": [[printable(one.source), one.detail] for one in skipped]})
    table = pyarrow.table(columns).replace_schema_metadata({_METADATA_KEY: encoded})
    content = io.BytesIO()
    parquet.write_table(table, content, write_page_checksum=True)
    return content.getvalue()


def _songs_of_parquet(path: Path) -> SongEmbeddings:
    from pyarrow import parquet

    columns = ["path", "embedding", "is_silent"]
    table = parquet.read_table(path, columns=columns, page_checksum_verification=True)
    metadata = json.loads((table.schema.metadata or {})[_METADATA_KEY])
    paths = table["path"].to_pylist()
    vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(paths), EMBEDDING_DIM)
    # The windows of a file are adjacent rows.
    starts = [row for row, name in enumerate(paths) if row == 0 or name != paths[row - 1]]
    means = [vectors[start:end].mean(axis=0) for start, end in zip(starts, [*starts[1:], len(paths)], strict=True)]
    stacked = np.stack(means) if means else np.zeros((0, EMBEDDING_DIM), np.float32)
    is_silent = table["is_silent"].to_pylist()
    silent_paths = frozenset(name for name, silent in zip(paths, is_silent, strict=True) if silent)
    return SongEmbeddings(tuple(paths[start] for start in starts), stacked, silent_paths, metadata["metadata"])


def _require_pyarrow() -> None:
    try:
        importlib.import_module("pyarrow.parquet")
    # This includes a pyarrow that needs a newer NumPy than TensorFlow allows.
    except ImportError as error:
        raise UsageError(
            f"Parquet files need the package pyarrow ({error}); run `pip install 'pyarrow<23'`, or choose an .npz file."
        ) from error


OnFile = Callable[[int, int], None]
"""Called with the number of finished files and the total."""


def embed_files(
    encoder: Encoder,
    files: Sequence[Path],
    out: Path,
    *,
    unlisted: Sequence[SkippedFile] = (),
    hop_seconds: float | None = None,
    batch_size: int = 32,
    on_file: OnFile = lambda done, of: None,
) -> tuple[list[FileEmbedding], list[SkippedFile]]:
    """Embeds files and writes a table.

    Finished files are kept in a folder next to the table until it is written, so an interrupted command can resume.

    Args:
        encoder: From `load_encoder`.
        files: At least one.
        out: Table, .npz or .parquet, replaced atomically at the end; unchanged if no file could be used.
        unlisted: Files that were skipped before, for the table.
        hop_seconds: Time between the starts of two windows. Default: the length of a window.
        batch_size: Windows per call of the encoder.
        on_file: Called after each file.

    Returns:
        The embeddings, in the order of the files, and the skipped files.

    Raises:
        UsageError: If the hop is shorter than a sample.
        ClmrError: If another process writes the same table.
    """
    metadata = {
        "format_version": FORMAT_VERSION,
        "model_hash": weights_hash(encoder.model),
        "sample_rate_hz": encoder.sample_rate_hz,
        "window_num_samples": encoder.clip_num_samples,
        "hop_num_samples": encoder.hop_num_samples(hop_seconds),
    }
    parts = out.with_name(f".{out.name}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    refusal = f"Another process is writing {out}; wait for it, or choose another --out."
    with exclusive_lock(parts / ".lock", refusal):
        part_of, gone = _parts_of(files, parts, metadata)
        skipped = [*unlisted, *gone]
        missing = [path for path, part in part_of.items() if _read_part(path, part) is None]
        num_done = len(files) - len(missing)
        on_file(num_done, len(files))
        with IsolatedDecoder() as decoder:
            for one in stream_embeddings(encoder, missing, decoder, hop_seconds=hop_seconds, batch_size=batch_size):
                if isinstance(one, SkippedFile):
                    skipped.append(one)
                else:
                    _write_part(one, part_of[one.path])
                num_done += 1
                on_file(num_done, len(files))
        not_used = {one.source for one in skipped}
        embedded = [_read_part(path, part_of[path]) for path in files if str(path) not in not_used]
        if embedded:
            write_table(out, embedded, skipped, metadata)
        shutil.rmtree(parts)
    return embedded, skipped


def _parts_of(
    files: Sequence[Path], parts: Path, metadata: dict[str, object]
) -> tuple[dict[Path, Path], list[SkippedFile]]:
    """The path of the part of each file, and files that no longer exist."""
    part_of, gone = {}, []
    for path in files:
        try:
            status = path.stat()
        except OSError as error:
            gone.append(SkippedFile(str(path), UNREADABLE, error.strerror or str(error)))
            continue
        key = json.dumps([str(path.resolve()), status.st_size, status.st_mtime_ns, metadata])
        part_of[path] = parts / f"{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.npz"
    return part_of, gone


def _write_part(embedding: FileEmbedding, part: Path) -> None:
    arrays = dataclasses.asdict(embedding)
    del arrays["path"]
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_atomically(part, content.getvalue())


def _read_part(path: Path, part: Path) -> FileEmbedding | None:
    names = ("vectors", "times_seconds", "duration_seconds", "is_padded", "is_silent", "lost_seconds")
    try:
        arrays = read_arrays(part, *names)
    except UnreadableArraysError:
        return None
    vectors, times_seconds, *others = (arrays[name] for name in names)
    return FileEmbedding(path, vectors, times_seconds, *(one.item() for one in others))
