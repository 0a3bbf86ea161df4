"""What `python -m clmr_tf.embed` writes, and how it is read: embeddings of many files in one .npz or .parquet file."""

import dataclasses
import importlib
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clmr_tf.audio_listing import SkippedFile
from clmr_tf.console import printable
from clmr_tf.embedding_stream import FileEmbedding
from clmr_tf.errors import UsageError
from clmr_tf.files import require_writable, write_atomically
from clmr_tf.models.sample_cnn import EMBEDDING_DIM

FORMAT_VERSION = 1
SUFFIXES = (".npz", ".parquet")
_METADATA_KEY = b"clmr_tf"


@dataclasses.dataclass(frozen=True)
class SongEmbeddings:
    """One vector for each file of a table.

    Attributes:
        paths: The files.
        means: The mean of the windows of each, float32 [files, 512].
        silent_paths: Those of the files that are silent.
        facts: Format version, SHA-256 of the weights (`model_hash`), rate, window and hop in samples.
    """

    paths: tuple[str, ...]
    means: np.ndarray
    silent_paths: frozenset[str]
    facts: dict[str, Any]


def require_table_name(out: Path) -> None:
    """Raises UsageError for a file that is no table, or that could not be written, before hours of embedding."""
    if out.suffix not in SUFFIXES:
        raise UsageError(f"--out must be a file that ends in .npz or .parquet; received {out}.")
    require_writable(out, "--out")
    if out.suffix == ".parquet":
        _require_pyarrow()


def write_table(
    out: Path, embeddings: Sequence[FileEmbedding], skipped: Sequence[SkippedFile], facts: dict[str, Any]
) -> None:
    """Writes all that came of a list of files, in one step; docs/embedding.md says what is where.

    Args:
        out: Ends in .npz or .parquet.
        embeddings: Of the files that could be used.
        skipped: The others.
        facts: As of `SongEmbeddings`.
    """
    write = _parquet if out.suffix == ".parquet" else _npz
    write_atomically(out, write(embeddings, skipped, facts))


def read_songs(path: Path) -> SongEmbeddings:
    """One vector for each file of a table; of an .npz file, without reading those of the windows.

    Raises:
        UsageError: If it is no such table.
    """
    if path.suffix == ".parquet":
        _require_pyarrow()
    try:
        songs = _songs_of_parquet(path) if path.suffix == ".parquet" else _songs_of_npz(path)
        is_table = (
            songs.means.shape == (len(songs.paths), EMBEDDING_DIM)
            and bool(np.isfinite(songs.means).all())
            and all(isinstance(name, str) for name in songs.paths)
            and isinstance(songs.facts["model_hash"], str)
            and songs.facts["hop_num_samples"] >= 1
        )
        version = songs.facts["format_version"]
    # Of pyarrow, the errors are ValueErrors, KeyErrors and OSErrors.
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{path} is no table of embeddings that can be read; give the file that `python -m clmr_tf.embed` wrote."
        ) from error
    if version != FORMAT_VERSION or not is_table:
        raise UsageError(f"{path} is damaged, or a table of another version; embed the files again.")
    return songs


def _npz(embeddings: Sequence[FileEmbedding], skipped: Sequence[SkippedFile], facts: dict[str, Any]) -> bytes:
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
        facts=np.array(json.dumps(facts)),
    )
    return content.getvalue()


def _songs_of_npz(path: Path) -> SongEmbeddings:
    # NumPy leaves a file open that it cannot read.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        paths = arrays["paths"]
        # Tables of version 0.1 do not say which files are silent.
        is_silent = arrays["is_silent"] if "is_silent" in arrays else np.zeros(len(paths), bool)
        silent_paths = frozenset(paths[is_silent].tolist())
        return SongEmbeddings(tuple(paths.tolist()), arrays["means"], silent_paths, json.loads(str(arrays["facts"])))


def _parquet(embeddings: Sequence[FileEmbedding], skipped: Sequence[SkippedFile], facts: dict[str, Any]) -> bytes:
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
    metadata = json.dumps({"facts": facts, "skipped": [[printable(one.source), one.detail] for one in skipped]})
    table = pyarrow.table(columns).replace_schema_metadata({_METADATA_KEY: metadata})
    content = io.BytesIO()
    parquet.write_table(table, content, write_page_checksum=True)
    return content.getvalue()


def _songs_of_parquet(path: Path) -> SongEmbeddings:
    from pyarrow import parquet

    # Tables of version 0.1 do not say which files are silent; a column that is not there is not read.
    columns = ["path", "embedding", "is_silent"]
    table = parquet.read_table(path, columns=columns, page_checksum_verification=True)
    metadata = json.loads((table.schema.metadata or {})[_METADATA_KEY])
    paths = table["path"].to_pylist()
    vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(paths), EMBEDDING_DIM)
    # The windows of a file follow each other.
    starts = [row for row, name in enumerate(paths) if row == 0 or name != paths[row - 1]]
    means = [vectors[start:end].mean(axis=0) for start, end in zip(starts, [*starts[1:], len(paths)], strict=True)]
    stacked = np.stack(means) if means else np.zeros((0, EMBEDDING_DIM), np.float32)
    is_silent = table["is_silent"].to_pylist() if "is_silent" in table.column_names else [False] * len(paths)
    silent_paths = frozenset(name for name, silent in zip(paths, is_silent, strict=True) if silent)
    return SongEmbeddings(tuple(paths[start] for start in starts), stacked, silent_paths, metadata["facts"])


def _require_pyarrow() -> None:
    try:
        importlib.import_module("pyarrow.parquet")
    # Also where it is there and wants a newer NumPy than TensorFlow has.
    except ImportError as error:
        raise UsageError(
            f"Parquet files need the package pyarrow ({error}); run `pip install 'pyarrow<23'`, or choose an .npz file."
        ) from error
