"""Embeds lists of files into tables, in shards that may run anywhere, be killed and be repeated, and updates tables.

Nothing here locks, because a part that two processes write at once has the same bytes on machines of one kind; the
command locks to save work.
"""

import bisect
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import fsencode
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from clmr_tf.audio.decoding import CRASHED, TIMED_OUT, UNREADABLE, require_decoders
from clmr_tf.audio.isolation import IsolatedDecoder
from clmr_tf.audio.listing import SkippedFile
from clmr_tf.config.command_line import from_json
from clmr_tf.config.shards import Shard, named
from clmr_tf.console import printable
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
    remove_parts,
    remove_records,
    write_npz,
    write_part,
)

if TYPE_CHECKING:
    from clmr_tf.inference.encoder import Encoder

FILES_PER_PART = 256
"""A kill loses at most the embeddings of so many files."""

# The cause may be the machine: too little memory, a slow disk, permissions.
_RETRIED = (CRASHED, TIMED_OUT, UNREADABLE)

_LOG = logging.getLogger(__name__)

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
    """

    table: Path
    shard: Shard
    files: tuple[ListedFile, ...]
    files_per_part: int
    list_hash: str
    hop_seconds: float | None = None
    batch_size: int = 32

    def only(self, shard: Shard) -> "TableShard":
        """A shard of a task that has all files of the table: whole parts, in a contiguous range of the list."""
        size = self.files_per_part
        parts = shard.range_of(-(-len(self.files) // size))
        return dataclasses.replace(self, shard=shard, files=self.files[parts.start * size : parts.stop * size])


def shard_of(
    table: Path,
    files: Sequence[ListedFile],
    shard: Shard,
    *,
    files_per_part: int = FILES_PER_PART,
    hop_seconds: float | None = None,
    batch_size: int = 32,
) -> TableShard:
    """The task of a shard.

    Args:
        table: Folder of the table.
        files: From `list_files`.
        shard: Which of how many.
        files_per_part: At least 1.
        hop_seconds: See `TableShard`.
        batch_size: See `TableShard`.
    """
    digest = hashlib.sha256(f"{files_per_part} files per part".encode())
    for file in files:
        digest.update(b"\0" + fsencode(file.path))
    whole = TableShard(table, Shard(), tuple(files), files_per_part, digest.hexdigest(), hop_seconds, batch_size)
    return whole.only(shard)


@dataclasses.dataclass(frozen=True)
class ShardSummary:
    """What a finished shard did.

    Attributes:
        shard: Which of how many.
        settings: How the embeddings were made.
        list_hash: See `TableShard`.
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
        len(shard.files),
        sum(part.num_songs for part in parts),
        sum(part.num_windows for part in parts),
        time.monotonic() - started,
        _cpu_seconds() - cpu_started,
        tuple(parts),
    )
    # Drafts there are removed when the table is published.
    draft_folder = shard.table / SONGS_FOLDER
    write_atomically(path, json.dumps(dataclasses.asdict(summary), indent=1) + "\n", draft_folder=draft_folder)
    return summary


def has_finished_shards(table: Path) -> bool:
    """Whether shards of a table have finished, and have not been merged yet."""
    return any(one.num_songs for one in _summaries(table))


def take_over(shard: TableShard, settings: TableSettings) -> None:
    """Removes the records of finished shards, for a run that makes the table in one piece and keeps what it can use.

    Args:
        shard: All files of the table.
        settings: How this run makes embeddings.

    Raises:
        UsageError: If finished shards have other settings, or none of their parts would be used; nothing is removed.
    """
    finished = [one for one in _summaries(shard.table) if one.num_songs]
    for one in finished:
        settings.require_same(one.settings, "This command", f"shard {one.shard} of {shard.table}")
    size = shard.files_per_part
    wanted = {
        part_name(settings, shard.files[first : first + size]) for first in range(0, len(shard.files), size) if finished
    }
    if finished and wanted.isdisjoint(part.name for one in finished for part in one.parts):
        raise UsageError(
            f"{shard.table} has finished shards, and none of their parts is one of these files; finish them with the "
            f"same paths and --files-per-part, choose another --out, or remove {shard.table / SHARDS_FOLDER} to give "
            "them up."
        )
    remove_records(shard.table)


def opened_worker(
    model: Path, model_hash: str, runtime: str, num_threads: int, decoders: Mapping[str, str]
) -> Callable[[TableShard], ShardSummary]:
    """Loads a model once for many shards, in a process that does nothing else.

    Args:
        model: Model folder.
        model_hash: That of the `Encoder` which it must have.
        runtime: One of `RUNTIMES`; not "auto", which may take another one on each machine.
        num_threads: Threads of the encoder.
        decoders: From `decoder_versions`.

    Returns:
        `embed_shard` without its first argument.

    Raises:
        UsageError: If the model cannot be loaded, or it or a decoder is another one.
    """
    from clmr_tf.inference.encoder import load_encoder

    require_decoders(decoders)
    encoder = load_encoder(model, runtime, num_threads=num_threads)
    if encoder.model_hash != model_hash:
        raise UsageError(f"The model in {model} has other weights there; copy the same model to all nodes.")
    return functools.partial(embed_shard, encoder)


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
        name: str = "",
        known: Callable[[], Mapping[tuple[str, int, int], FileEmbedding | SkippedFile]] = dict,
    ) -> Part:
        """Writes a part unless it is there; `known` are embeddings that need not be computed."""
        name = name or part_name(settings, files)
        part = found_part(table, settings, name)
        if part is None:
            # Closed at once after an error, since a thread decodes ahead.
            with contextlib.closing(self._embedded(files, known())) as embedded:
                return write_part(table, settings, files, embedded, name)
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
        remove_parts(table, {part.name for part in manifest.parts})
        return manifest
    summaries = sorted(_summaries(table), key=lambda summary: summary.shard.number)
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
    present = {summary.shard for summary in summaries}
    wanted = [Shard(number, first.shard.num_shards) for number in range(first.shard.num_shards)]
    missing = [shard for shard in wanted if shard not in present]
    if missing:
        raise UsageError(
            f"{table} is not complete: missing shards {named(missing)}; run each of them, and merge again."
        )
    damaged = [summary.shard for summary in summaries if not _is_whole(table, summary)]
    if damaged:
        raise UsageError(f"{table} has damaged shards {named(damaged)}; run each of them, and merge again.")
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
    return Manifest(summaries[0].settings, parts)


def _require_songs(manifest: Manifest) -> None:
    if not manifest.num_songs:
        num_skipped = sum(len(part.skipped) for part in manifest.parts)
        raise ClmrError(f"None of the {num_skipped} files could be used as audio; see the warnings.")


def _publish(table: Path, manifest: Manifest) -> None:
    _require_songs(manifest)
    manifest.write(table)
    remove_parts(table, {part.name for part in manifest.parts})


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
    folder = table / SHARDS_FOLDER
    for path in list(folder.iterdir()) if folder.is_dir() else ():
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
class NewPart:
    """A part that an update has to write.

    Attributes:
        name: Its name.
        files: Its files.
        old: The part that has the embeddings of those that have not changed.
    """

    name: str
    files: tuple[ListedFile, ...]
    old: Part


@dataclasses.dataclass(frozen=True)
class TableUpdate:
    """What an update has to do.

    Attributes:
        num_new: Files that are new or have changed.
        num_vanished: Files that are no longer listed.
        num_retried: Files that could not be decoded, for reasons that may be those of the machine.
        parts: In order: a part that stays, or a new part.
    """

    num_new: int
    num_vanished: int
    num_retried: int
    parts: tuple[Part | NewPart, ...]

    @property
    def has_changes(self) -> bool:
        """Whether there is something to do."""
        return self.num_new + self.num_vanished + self.num_retried > 0

    @property
    def num_files(self) -> int:
        """Files of the parts that change."""
        return sum(len(part.files) for part in self.parts if isinstance(part, NewPart))


def plan_update(
    table: Path,
    manifest: Manifest,
    files: Sequence[ListedFile],
    files_per_part: int = FILES_PER_PART,
    *,
    retry: bool = False,
) -> TableUpdate:
    """Compares a table with a list of files; a part changes only if a file in its range of paths does.

    What the table has of files and folders that cannot be read now stays, with a warning.

    Args:
        table: Folder of the table.
        manifest: Its manifest.
        files: From `list_files`.
        files_per_part: Largest number of files in a new part.
        retry: Whether to try files again whose decoder crashed or was stopped, or that could not be read.

    Raises:
        UsageError: If a part is missing or damaged.
    """
    keys = [keys_of_part(table, manifest.settings, part.name) for part in manifest.parts]
    starts = [own[0][0].encode() for own in keys]
    by_part: list[list[ListedFile]] = [[] for _ in keys]
    for file in _with_unreadable(table, files, keys):
        by_part[max(bisect.bisect(starts, file.key[0].encode()) - 1, 0)].append(file)
    num_new = num_vanished = num_retried = 0
    parts: list[Part | NewPart] = []
    for part, before, own in zip(manifest.parts, keys, by_part, strict=True):
        now = [file.key for file in own]
        failed = {printable(one.source) for one in part.skipped if retry and one.reason in _RETRIED}
        retried = [file for file in own if not file.skipped and file.key[0] in failed and file.key in before]
        num_retried += len(retried)
        if now == before and not retried:
            parts.append(part)
            continue
        num_new += len(set(now) - set(before))
        num_vanished += len({path for path, *_ in before} - {path for path, *_ in now})
        # Of similar sizes, so that a part that has just been divided has room for further files.
        num_parts = -(-len(own) // files_per_part)
        for number in range(num_parts):
            rows = Shard(number, num_parts).range_of(len(own))
            new = tuple(own[rows.start : rows.stop])
            name = part_name(manifest.settings, new, part.name if retried else "")
            parts.append(NewPart(name, new, part))
    return TableUpdate(num_new, num_vanished, num_retried, tuple(parts))


def _with_unreadable(
    table: Path, files: Sequence[ListedFile], keys: Sequence[Sequence[tuple[str, int, int]]]
) -> Sequence[ListedFile]:
    """Replaces files and folders that cannot be read by what the table has of them."""
    unreadable = {file.key[0]: file for file in files if file.skipped}
    if not unreadable:
        return files
    kept, owners = {}, set()
    for key in itertools.chain(*keys):
        above = unreadable.keys() & {key[0], *map(str, PurePath(key[0]).parents)}
        if above and all(unreadable[name].key != key for name in above):
            kept[key[0]] = ListedFile(*key)
            owners |= above
    for name in sorted(owners):
        reason = unreadable[name].skipped.detail
        _LOG.warning("%s cannot be read (%s), so what %s has of it stays.", name, reason, printable(str(table)))
    now = kept | {file.key[0]: file for file in files if file.key[0] not in owners}
    return sorted(now.values(), key=lambda file: file.key[0].encode())


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
    # Those that the last update replaced: programs that read them have had time until now.
    remove_parts(table, {part.name for part in (*manifest.parts, *update.parts)})
    hop_seconds = manifest.settings.hop_num_samples / manifest.settings.sample_rate_hz
    manifest.settings.require_same(settings_of(encoder, hop_seconds), str(table), "this command")
    parts = []
    with _PartEmbedding(encoder, hop_seconds, batch_size, update.num_files, on_file) as embedding:
        for part in update.parts:
            if isinstance(part, Part):
                parts.append(part)
                continue
            known = functools.partial(_known, table, manifest.settings, part.old)
            new = embedding.part(table, manifest.settings, part.files, part.name, known)
            if new.name != part.old.name and new.sha256 == part.old.sha256:
                # Files were tried again in vain; the next update tries once more.
                for folder in new.sha256:
                    (table / folder / f"{new.name}.parquet").unlink()
                new = part.old
            parts.append(new)
    updated = dataclasses.replace(manifest, parts=tuple(parts))
    if not updated.num_songs:
        raise ClmrError(f"The update would leave no song in {table}; give all paths that it was made from.")
    updated.write(table)
    # They describe the table before its first update.
    remove_records(table)
    return updated


def _known(table: Path, settings: TableSettings, part: Part) -> dict[tuple[str, int, int], FileEmbedding | SkippedFile]:
    files = read_part(table, settings, part.name)
    return {key: one for key, one in files.items() if not (isinstance(one, SkippedFile) and one.reason in _RETRIED)}
