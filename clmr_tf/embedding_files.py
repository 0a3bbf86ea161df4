"""Embeds files: the body of `python -m clmr_tf.embed`."""

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from clmr_tf.audio_decoders import UNREADABLE
from clmr_tf.audio_listing import SkippedFile
from clmr_tf.embedding_stream import FileEmbedding, stream_embeddings
from clmr_tf.embedding_table import FORMAT_VERSION, write_table
from clmr_tf.encoder import Encoder, weights_hash
from clmr_tf.errors import ClmrError
from clmr_tf.files import UnreadableArraysError, read_arrays, write_atomically
from clmr_tf.isolated_decoder import IsolatedDecoder

OnFile = Callable[[int, int], None]
"""Is told how many files are done, and of how many."""


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
    """Embeds files and writes all that came of it to one file; `clmr_tf.embedding_table` says which.

    What is finished of a list that was interrupted lies in a folder beside it, and is not computed again.

    Args:
        encoder: From `load_encoder`.
        files: At least one.
        out: The file to write, .npz or .parquet, replaced in one step at the end; left alone if no file could be used.
        unlisted: What could not even be listed, for the table.
        hop_seconds: Distance between windows; the length of a window if None.
        batch_size: Windows in one call of the encoder.
        on_file: Told after each file.

    Returns:
        What was embedded, in the order of the files, and what was skipped.

    Raises:
        UsageError: If the hop is less than a sample.
        ClmrError: If another process embeds to the same file.
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
    with _only_one(parts, out):
        part_of, gone = _parts_of(files, parts, facts)
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
            write_table(out, embedded, skipped, facts)
        shutil.rmtree(parts)
    return embedded, skipped


@contextlib.contextmanager
def _only_one(parts: Path, out: Path) -> Iterator[None]:
    """Raises ClmrError if another process embeds to the same file."""
    with (parts / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ClmrError(f"Another process embeds to {out}; wait for it, or choose another --out.") from error
        yield


def _parts_of(
    files: Sequence[Path], parts: Path, facts: dict[str, object]
) -> tuple[dict[Path, Path], list[SkippedFile]]:
    """Where the embeddings of each file wait; and those that are gone since they were listed."""
    part_of, gone = {}, []
    for path in files:
        try:
            status = path.stat()
        except OSError as error:
            gone.append(SkippedFile(str(path), UNREADABLE, error.strerror or str(error)))
            continue
        key = json.dumps([str(path.resolve()), status.st_size, status.st_mtime_ns, facts])
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
