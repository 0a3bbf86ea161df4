"""Embeds lists of files into tables, in shards that may run anywhere, be killed and be repeated, and updates tables.

Nothing here locks, because a part that two processes write at once has the same bytes; the command locks to save work.
"""

import bisect
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import fsencode
from pathlib import Path
from typing import TYPE_CHECKING

from clmr_tf.audio.decoding import UNREADABLE
from clmr_tf.audio.isolation import IsolatedDecoder
from clmr_tf.audio.listing import SkippedFile
from clmr_tf.config.command_line import from_json
from clmr_tf.config.shards import Shard
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.files import write_atomically
from clmr_tf.inference.embeddings import FileEmbedding, stream_embeddings, warn_about
from clmr_tf.inference.tables import (
    MANIFEST_FILE,
    SHARDS_FOLDER,
    SONGS_FOLDER,
    WINDOWS_FOLDER,
    ListedFile,
    Manifest,
    Part,
    TableSettings,
    found_part,
    hashes_of_part,
    keys_of_part,
    part_name,
    read_manifest,
    read_part,
    write_npz,
    write_part,
)

if TYPE_CHECKING:
    from clmr_tf.inference.encoder import Encoder

FILES_PER_PART = 256
"""A kill loses at most the embeddings of so many files."""

# As in `clmr_tf.export.model_folder`, which imports TensorFlow.
_WEIGHTS_FILE = "encoder.weights.h5"

OnFile = Callable[[int, int], None]
"""Called with the number of finished files and the total."""


def list_files(files: Sequence[Path], unlisted: Sequence[SkippedFile] = ()) -> list[ListedFile]:
    """Looks up sizes and modification times of what `find_audio` found.

    Args:
        files: Files to embed.
        unlisted: Files and folders that could not be read.

    Returns:
        All of them, sorted by path.
    """
    listed = [_listed(str(path)) for path in files]
    listed += [ListedFile(one.source, 0, 0, one) for one in unlisted]
    return sorted(listed, key=lambda file: file.key[0].encode())


def _listed(path: str) -> ListedFile:
    try:
        status = os.stat(path)  # noqa: PTH116 - a million paths as objects would take a gigabyte
    except OSError as error:
        return ListedFile(path, 0, 0, SkippedFile(path, UNREADABLE, error.strerror or str(error)))
    return ListedFile(path, status.st_size, status.st_mtime_ns)


@dataclasses.dataclass(frozen=True)
class TableShard:
    """A shard of a table, as a task that can be pickled and sent anywhere that sees the same files.

    Attributes:
        table: Folder of the table.
        shard: Which of how many.
        files: The files of this shard.
        files_per_part: Files of every part but the last of the table.
        list_hash: Hash of all paths of the table and of `files_per_part`; all shards must have the same.
        hop_seconds: Time between the starts of two windows; None for the length of a window.
        batch_size: Windows per call of the encoder.
        weights_file_sha256: See `clmr_tf.inference.tables.Manifest`.
    """

    table: Path
    shard: Shard
    files: tuple[ListedFile, ...]
    files_per_part: int
    list_hash: str
    hop_seconds: float | None = None
    batch_size: int = 32
    weights_file_sha256: str | None = None


def shard_of(
    table: Path,
    files: Sequence[ListedFile],
    shard: Shard,
    *,
    files_per_part: int = FILES_PER_PART,
    hop_seconds: float | None = None,
    batch_size: int = 32,
    weights_file_sha256: str | None = None,
) -> TableShard:
    """The task of a shard: whole parts, in a contiguous range of the list.

    Args:
        table: Folder of the table.
        files: From `list_files`.
        shard: Which of how many.
        files_per_part: At least 1.
        hop_seconds: See `TableShard`.
        batch_size: See `TableShard`.
        weights_file_sha256: See `TableShard`.
    """
    digest = hashlib.sha256(f"{files_per_part} files per part".encode())
    for file in files:
        digest.update(b"\0" + fsencode(file.path))
    parts = shard.range_of(-(-len(files) // files_per_part))
    own = tuple(files[parts.start * files_per_part : parts.stop * files_per_part])
    options = (hop_seconds, batch_size, weights_file_sha256)
    return TableShard(table, shard, own, files_per_part, digest.hexdigest(), *options)


def divided(whole: TableShard, num_shards: int) -> list[TableShard]:
    """The shards of a table.

    Args:
        whole: From `shard_of`, with all files of the table.
        num_shards: How many.
    """
    num_files, size = len(whole.files), whole.files_per_part
    shards = []
    for shard in (Shard(number, num_shards) for number in range(num_shards)):
        parts = shard.range_of(-(-num_files // size))
        shards.append(
            dataclasses.replace(whole, shard=shard, files=whole.files[parts.start * size : parts.stop * size])
        )
    return shards


@dataclasses.dataclass(frozen=True)
class ShardSummary:
    """What a finished shard did.

    Attributes:
        shard: Which of how many.
        settings: How the embeddings were made.
        list_hash: See `TableShard`.
        weights_file_sha256: See `TableShard`.
        num_files: Files of the shard.
        num_songs: Files that were embedded.
        num_windows: Their windows.
        wall_seconds: How long the last run took.
        cpu_seconds: Processor time of that run, decoding included.
        parts: Its parts, with hashes and skipped files.
    """

    shard: Shard
    settings: TableSettings
    list_hash: str
    weights_file_sha256: str | None
    num_files: int
    num_songs: int
    num_windows: int
    wall_seconds: float
    cpu_seconds: float
    parts: tuple[Part, ...]


def embed_shard(encoder: "Encoder", shard: TableShard, on_file: OnFile = lambda done, of: None) -> ShardSummary:
    """Embeds the files of a shard; parts that are there already are kept, so a finished shard stays as it is.

    Args:
        encoder: From `load_encoder`.
        shard: From `shard_of`.
        on_file: Called after each file.

    Returns:
        What TABLE/shards/SHARD.json holds now.

    Raises:
        UsageError: If the hop is shorter than a sample, or another shard of the table has other settings or another
            list of files.
        OSError: If the table cannot be written, for example because the disk is full.
    """
    started, cpu_started = time.monotonic(), _cpu_seconds()
    settings = settings_of(encoder, shard.hop_seconds)
    for folder in (SONGS_FOLDER, WINDOWS_FOLDER, SHARDS_FOLDER):
        (shard.table / folder).mkdir(parents=True, exist_ok=True)
    path = shard.table / SHARDS_FOLDER / f"{shard.shard.name}.json"
    other = next((one for one in _summaries(shard.table) if one.shard != shard.shard), None)
    if other:
        _require_alike(f"Shard {shard.shard}", settings, shard.list_hash, other)
    parts = []
    with _PartEmbedding(encoder, shard.hop_seconds, shard.batch_size, len(shard.files), on_file) as embedding:
        for first in range(0, len(shard.files), shard.files_per_part):
            files = shard.files[first : first + shard.files_per_part]
            parts.append(embedding.part(shard.table, settings, files))
    previous = _read_summary(path)
    if previous and (previous.settings, previous.list_hash, list(previous.parts)) == (settings, shard.list_hash, parts):
        return previous
    summary = ShardSummary(
        shard.shard,
        settings,
        shard.list_hash,
        shard.weights_file_sha256,
        len(shard.files),
        sum(part.num_songs for part in parts),
        sum(part.num_windows for part in parts),
        time.monotonic() - started,
        _cpu_seconds() - cpu_started,
        tuple(parts),
    )
    write_atomically(path, json.dumps(dataclasses.asdict(summary), indent=1) + "\n")
    return summary


def opened_worker(
    model: Path, weights_file_sha256: str | None, num_threads: int
) -> Callable[[TableShard], ShardSummary]:
    """Loads a model once for many shards, in a process that does nothing else.

    Args:
        model: Model folder or run folder.
        weights_file_sha256: Of the file of weights that a model folder must have; None for a run folder.
        num_threads: Threads of the encoder.

    Returns:
        `embed_shard` without its first argument.

    Raises:
        UsageError: If the model cannot be loaded, or is another one.
    """
    import tensorflow as tf

    from clmr_tf.inference.encoder import load_encoder

    if weights_file_sha256 != weights_file_hash(model):
        raise UsageError(f"The model in {model} has other weights there; copy the same model to all nodes.")
    tf.config.threading.set_intra_op_parallelism_threads(num_threads)
    return functools.partial(embed_shard, load_encoder(model))


def weights_file_hash(model: Path) -> str | None:
    """SHA-256 of the file of weights in a model folder, without importing TensorFlow; None for a run folder."""
    try:
        return hashlib.sha256((model / _WEIGHTS_FILE).read_bytes()).hexdigest()
    except OSError:
        return None


def settings_of(encoder: "Encoder", hop_seconds: float | None) -> TableSettings:
    """The settings of a table that this encoder makes.

    Raises:
        UsageError: If the hop is shorter than a sample.
    """
    return TableSettings(
        encoder.model_hash,
        encoder.sample_rate_hz,
        encoder.clip_num_samples,
        encoder.hop_num_samples(hop_seconds),
        encoder.embedding_dim,
    )


class _PartEmbedding(contextlib.AbstractContextManager):
    """Embeds one part after the other with the same decoder."""

    def __init__(
        self, encoder: "Encoder", hop_seconds: float | None, batch_size: int, num_files: int, on_file: OnFile
    ) -> None:
        self._encoder, self._hop_seconds, self._batch_size = encoder, hop_seconds, batch_size
        self._num_done, self._num_files, self._on_file = 0, num_files, on_file
        self._decoder = IsolatedDecoder()
        on_file(0, num_files)

    def __exit__(self, *error: object) -> None:
        self._decoder.__exit__(*error)

    def part(
        self,
        table: Path,
        settings: TableSettings,
        files: Sequence[ListedFile],
        known: Callable[[], Mapping[tuple[str, int, int], FileEmbedding | SkippedFile]] = dict,
    ) -> Part:
        """Writes a part unless it is there; `known` are embeddings that need not be computed."""
        part = found_part(table, settings, part_name(settings, files))
        if part is None:
            # Closed at once after an error, since a thread decodes ahead.
            with contextlib.closing(self._embedded(files, known())) as embedded:
                return write_part(table, settings, files, embedded)
        self._count(len(files))
        return part

    def _embedded(
        self, files: Sequence[ListedFile], known: Mapping[tuple[str, int, int], FileEmbedding | SkippedFile]
    ) -> Iterator[FileEmbedding | SkippedFile]:
        missing = [Path(file.path) for file in files if file.skipped is None and file.key not in known]
        options = {"hop_seconds": self._hop_seconds, "batch_size": self._batch_size}
        with contextlib.closing(stream_embeddings(self._encoder, missing, self._decoder, **options)) as stream:
            for file in files:
                one = known.get(file.key)
                if one is None:
                    one = file.skipped or next(stream)
                    warn_about(one)
                yield one
                self._count(1)

    def _count(self, num_files: int) -> None:
        self._num_done += num_files
        self._on_file(self._num_done, self._num_files)


def merge_shards(table: Path) -> Manifest:
    """Makes one table of all shards: reads and checks their parts, and writes the manifest.

    Args:
        table: Folder of the table. One that is complete already is left as it is.

    Raises:
        UsageError: If shards are missing, damaged or not made alike; the message names them.
        ClmrError: If none of the files could be embedded.
    """
    if (table / MANIFEST_FILE).exists():
        manifest = read_manifest(table)
        remove_leftovers(table, manifest)
        return manifest
    summaries = list(_summaries(table))
    if not summaries:
        raise UsageError(f"{table} has no finished shard; run `python -m clmr_tf.embed` with --out {table} first.")
    first = summaries[0]
    for summary in summaries[1:]:
        _require_alike(f"Shard {summary.shard}", summary.settings, summary.list_hash, first)
        if summary.shard.num_shards != first.shard.num_shards:
            raise UsageError(
                f"{table} has shards of {first.shard.num_shards} and of {summary.shard.num_shards}; remove those that "
                f"are not wanted from {table / SHARDS_FOLDER}."
            )
    present = {summary.shard.number for summary in summaries}
    missing = [number for number in range(first.shard.num_shards) if number not in present]
    if missing:
        names = ", ".join(f"{number}/{first.shard.num_shards}" for number in missing)
        raise UsageError(f"{table} is not complete: missing shards {names}; run each of them, and merge again.")
    damaged = [str(summary.shard) for summary in summaries if not _is_whole(table, summary)]
    if damaged:
        raise UsageError(f"{table} has damaged shards {', '.join(damaged)}; run each of them, and merge again.")
    manifest = _manifest_of(summaries)
    _publish(table, manifest)
    return manifest


def embed_table(encoder: "Encoder", shard: TableShard, on_file: OnFile = lambda done, of: None) -> Manifest:
    """Embeds the only shard of a table, and publishes the table; arguments and errors as for `embed_shard`.

    Raises:
        ClmrError: If none of the files could be embedded.
    """
    manifest = _manifest_of([embed_shard(encoder, shard, on_file)])
    _publish(shard.table, manifest)
    return manifest


def embed_npz(encoder: "Encoder", out: Path, shard: TableShard, on_file: OnFile = lambda done, of: None) -> Manifest:
    """Embeds files to an .npz file, which is replaced in one step; unchanged if no file could be used.

    Args:
        encoder: From `load_encoder`.
        out: The file.
        shard: All of its files; the folder of its table is removed at the end.
        on_file: Called after each file.

    Raises:
        ClmrError: If none of the files could be embedded.
        UsageError: If the hop is shorter than a sample.
        OSError: If the file or the folder cannot be written.
    """
    manifest = _manifest_of([embed_shard(encoder, shard, on_file)])
    if manifest.num_songs:
        write_npz(out, shard.table, manifest)
    shutil.rmtree(shard.table)
    _require_songs(manifest)
    return manifest


def _manifest_of(summaries: Sequence[ShardSummary]) -> Manifest:
    parts = tuple(part for summary in summaries for part in summary.parts)
    return Manifest(summaries[0].settings, summaries[0].weights_file_sha256, parts)


def _require_songs(manifest: Manifest) -> None:
    if not manifest.num_songs:
        num_skipped = sum(len(part.skipped) for part in manifest.parts)
        raise ClmrError(f"None of the {num_skipped} files could be used as audio; see the warnings.")


def _publish(table: Path, manifest: Manifest) -> None:
    _require_songs(manifest)
    manifest.write(table)
    remove_leftovers(table, manifest)


def remove_leftovers(table: Path, manifest: Manifest) -> None:
    """Removes parts that an update replaced, and drafts of processes that were killed, from a complete table."""
    names = {f"{part.name}.parquet" for part in manifest.parts}
    for path in [*(table / SONGS_FOLDER).iterdir(), *(table / WINDOWS_FOLDER).iterdir()]:
        if path.name not in names:
            path.unlink(missing_ok=True)


def _require_alike(owner: str, settings: TableSettings, list_hash: str, other: ShardSummary) -> None:
    settings.require_same(other.settings, owner, f"shard {other.shard}")
    if list_hash != other.list_hash:
        raise UsageError(
            f"{owner} has another list of files than shard {other.shard}; give all shards the same paths and "
            "--files-per-part while the folders do not change, or choose another --out."
        )


def _is_whole(table: Path, summary: ShardSummary) -> bool:
    try:
        return all(hashes_of_part(table, part.name) == part.sha256 for part in summary.parts)
    except OSError:
        return False


def _summaries(table: Path) -> Iterator[ShardSummary]:
    for path in sorted((table / SHARDS_FOLDER).glob("[0-9]*.json")):
        summary = _read_summary(path)
        if summary is not None:
            yield summary


def _read_summary(path: Path) -> ShardSummary | None:
    """A summary; None if it is missing or damaged, so that its shard counts as missing."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        plain["shard"] = Shard(**plain["shard"])
        plain["settings"] = from_json(TableSettings, plain["settings"], where=str(path))
        plain["parts"] = tuple(Part.from_json(part) for part in plain["parts"])
        return ShardSummary(**plain)
    except (OSError, ValueError, KeyError, TypeError, UsageError):
        return None


def _cpu_seconds() -> float:
    """Processor time of this process and of the decoders that have ended."""
    return sum(os.times()[:4])


@dataclasses.dataclass(frozen=True)
class TableUpdate:
    """What an update has to do.

    Attributes:
        num_new: Files that are new or have changed.
        num_vanished: Files that are no longer listed.
        parts: In order: a part that stays, or the files of a new part with the name of the old part that has the
            embeddings of those that have not changed.
    """

    num_new: int
    num_vanished: int
    parts: tuple[Part | tuple[tuple[ListedFile, ...], str], ...]

    @property
    def has_changes(self) -> bool:
        """Whether the table has to change."""
        return self.num_new + self.num_vanished > 0

    @property
    def num_files(self) -> int:
        """Files of the parts that change."""
        return sum(len(part[0]) for part in self.parts if not isinstance(part, Part))


def plan_update(
    table: Path, manifest: Manifest, files: Sequence[ListedFile], files_per_part: int = FILES_PER_PART
) -> TableUpdate:
    """Compares a table with a list of files; a part changes only if a file in its range of paths does.

    Args:
        table: Folder of the table.
        manifest: Its manifest.
        files: From `list_files`.
        files_per_part: Largest number of files in a new part.

    Raises:
        UsageError: If a part is missing or damaged.
    """
    keys = [keys_of_part(table, manifest.settings, part.name) for part in manifest.parts]
    starts = [own[0][0].encode() for own in keys]
    by_part: list[list[ListedFile]] = [[] for _ in keys]
    for file in files:
        by_part[max(bisect.bisect(starts, file.key[0].encode()) - 1, 0)].append(file)
    num_new = num_vanished = 0
    parts: list[Part | tuple[tuple[ListedFile, ...], str]] = []
    for part, before, own in zip(manifest.parts, keys, by_part, strict=True):
        now = [file.key for file in own]
        if now == before:
            parts.append(part)
            continue
        num_new += len(set(now) - set(before))
        num_vanished += len({path for path, *_ in before} - {path for path, *_ in now})
        # Of similar sizes, so that a part that has just been divided has room for further files.
        num_parts = -(-len(own) // files_per_part)
        for number in range(num_parts):
            rows = Shard(number, num_parts).range_of(len(own))
            parts.append((tuple(own[rows.start : rows.stop]), part.name))
    return TableUpdate(num_new, num_vanished, tuple(parts))


def update_table(
    encoder: "Encoder",
    table: Path,
    update: TableUpdate,
    manifest: Manifest,
    *,
    batch_size: int = 32,
    on_file: OnFile = lambda done, of: None,
) -> Manifest:
    """Embeds new and changed files, and publishes the new state in one step; the old one is valid until then.

    Args:
        encoder: Must have the settings of the table.
        table: Folder of the table.
        update: From `plan_update`.
        manifest: The manifest of the table.
        batch_size: Windows per call of the encoder.
        on_file: Called after each file of the parts that change.

    Raises:
        UsageError: If the encoder differs from that of the table, or a part is damaged.
        ClmrError: If no embedding would be left.
        OSError: If the table cannot be written.
    """
    hop_seconds = manifest.settings.hop_num_samples / manifest.settings.sample_rate_hz
    manifest.settings.require_same(settings_of(encoder, hop_seconds), str(table), "this command")
    parts = []
    with _PartEmbedding(encoder, hop_seconds, batch_size, update.num_files, on_file) as embedding:
        for part in update.parts:
            if isinstance(part, Part):
                parts.append(part)
                continue
            files, old = part
            known = functools.partial(read_part, table, manifest.settings, old)
            parts.append(embedding.part(table, manifest.settings, files, known))
    updated = dataclasses.replace(manifest, parts=tuple(parts))
    _publish(table, updated)
    # They describe the table before its first update.
    shutil.rmtree(table / SHARDS_FOLDER, ignore_errors=True)
    return updated
