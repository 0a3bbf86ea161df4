"""Embeds files: the body of `python -m clmr_tf.embed`."""

import dataclasses
import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from clmr_tf.audio_signatures import is_named_like_audio
from clmr_tf.encoder import Encoder
from clmr_tf.errors import UsageError
from clmr_tf.evaluation.sources import weights_hash
from clmr_tf.files import write_atomically
from clmr_tf.models.sample_cnn import EMBEDDING_DIM
from clmr_tf.window_stream import FileEnd, Window, stream_windows

FORMAT_VERSION = 1
OnFile = Callable[[int, int], None]
"""Is told how many files are done, and of how many."""


@dataclasses.dataclass(frozen=True)
class Embedded:
    """What embedding a list of files came to.

    Attributes:
        files: Those with embeddings.
        skipped: The others, each with the reason.
    """

    files: tuple[Path, ...]
    skipped: tuple[tuple[Path, str], ...]


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
) -> Embedded:
    """Embeds files and writes all that came of it to one .npz file, which `np.load` reads without pickle.

        vectors, times_seconds, file_index    of each window: float32 [n, 512], float64 [n], row of its file int64 [n]
        paths, means, durations_seconds, is_padded    of each file; the mean of its windows is float32 [files, 512]
        skipped_paths, skipped_reasons  of each file that could not be used
        facts                           JSON: format version, SHA-256 of the weights, window, hop, rate

    What is finished of a list that was interrupted lies in a folder beside it, and is not computed again.

    Args:
        encoder: From `load_encoder`.
        files: At least one.
        out: The file to write, replaced in one step at the end.
        hop_seconds: Distance between windows; the length of a window if None.
        batch_size: Windows in one call of the encoder.
        on_file: Told after each file.

    Raises:
        UsageError: If the hop is less than a sample.
    """
    clip, rate = encoder.clip_num_samples, encoder.sample_rate_hz
    if hop_seconds is not None and not 1 <= hop_seconds * rate < 2**62:
        raise UsageError(f"--hop-seconds must be at least one sample and finite; received {hop_seconds}.")
    hop = clip if hop_seconds is None else round(hop_seconds * rate)
    facts = {
        "format_version": FORMAT_VERSION,
        "model_hash": weights_hash(encoder),
        "sample_rate_hz": rate,
        "window_num_samples": clip,
        "hop_num_samples": hop,
    }
    parts = out.with_name(f".{out.name}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    part_of = {path: parts / _part_name(path, facts) for path in files}
    skipped: dict[Path, str] = {}
    missing = [path for path in files if _read_part(part_of[path]) is None]
    num_done = len(files) - len(missing)
    on_file(num_done, len(files))
    for path, result in _embedded(encoder, missing, hop, batch_size):
        if isinstance(result, str):
            skipped[path] = result
        else:
            content = io.BytesIO()
            np.savez(content, **result)
            write_atomically(part_of[path], content.getvalue())
        num_done += 1
        on_file(num_done, len(files))
    used = [path for path in files if path not in skipped]
    _write(out, [(path, _read_part(part_of[path])) for path in used], skipped, facts)
    shutil.rmtree(parts)
    return Embedded(tuple(used), tuple(skipped.items()))


def _embedded(
    encoder: Encoder, files: Sequence[Path], hop: int, batch_size: int
) -> Iterator[tuple[Path, dict[str, np.ndarray] | str]]:
    """Each file, in order, with its arrays or why there are none. Windows of several files share a batch."""
    clip, rate = encoder.clip_num_samples, encoder.sample_rate_hz
    waiting: list[Window] = []
    ends: list[FileEnd] = []
    vectors: dict[int, list[np.ndarray]] = {}
    starts: dict[int, list[int]] = {}

    def encode() -> Iterator[tuple[Path, dict[str, np.ndarray] | str]]:
        if waiting:
            encoded = encoder.encode_clips(np.stack([window.audio for window in waiting]))
            for window, vector in zip(waiting, encoded, strict=True):
                vectors.setdefault(window.file, []).append(vector)
                starts.setdefault(window.file, []).append(window.first_sample)
            waiting.clear()
        for end in ends:
            own, begins = vectors.pop(end.file, []), starts.pop(end.file, [])
            if end.error:
                yield files[end.file], end.error.detail
                continue
            yield (
                files[end.file],
                {
                    "vectors": np.stack(own),
                    "times_seconds": np.array(begins) / rate,
                    "duration_seconds": np.array(end.num_samples / rate),
                    "is_padded": np.array(end.num_samples < clip),
                },
            )
        ends.clear()

    for one in stream_windows(files, clip, rate, hop):
        if isinstance(one, FileEnd):
            ends.append(one)
        else:
            waiting.append(one)
        if len(waiting) == batch_size:
            yield from encode()
    yield from encode()


def _write(
    out: Path, parts: Sequence[tuple[Path, dict[str, np.ndarray]]], skipped: dict[Path, str], facts: dict[str, object]
) -> None:
    rows = [part for _, part in parts]
    empty = np.zeros((0, EMBEDDING_DIM), np.float32)
    content = io.BytesIO()
    np.savez(
        content,
        vectors=np.concatenate([empty, *(row["vectors"] for row in rows)]),
        times_seconds=np.concatenate([np.zeros(0), *(row["times_seconds"] for row in rows)]),
        file_index=np.repeat(np.arange(len(rows)), [len(row["vectors"]) for row in rows]),
        paths=np.array([str(path) for path, _ in parts], np.str_),
        means=np.stack([row["vectors"].mean(axis=0) for row in rows]) if rows else empty,
        durations_seconds=np.array([float(row["duration_seconds"]) for row in rows]),
        is_padded=np.array([bool(row["is_padded"]) for row in rows], bool),
        skipped_paths=np.array(list(map(str, skipped)), np.str_),
        skipped_reasons=np.array(list(skipped.values()), np.str_),
        facts=np.array(json.dumps(facts)),
    )
    write_atomically(out, content.getvalue())


def _part_name(path: Path, facts: dict[str, object]) -> str:
    status = path.stat()
    key = json.dumps([str(path.resolve()), status.st_size, status.st_mtime_ns, facts])
    return f"{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.npz"


def _read_part(path: Path) -> dict[str, np.ndarray] | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
