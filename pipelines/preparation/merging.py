"""Makes a corpus of its shards, without touching their audio.

The result does not depend on the number of shards: the index has the same bytes, and so has the audio, one file after
the other.
"""

import collections
import dataclasses
import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clmr_tf.audio.listing import SkippedFile
from clmr_tf.config.shards import Shard, named
from clmr_tf.data.corpus import (
    MANIFEST_FILE,
    SKIPPED_FILE,
    AudioFile,
    Corpus,
    CorpusManifest,
    require_size,
    write_corpus,
)
from clmr_tf.data.index import INDEX_FILE, SPLITS, numbered, replaced_column, with_songs
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.files import sha256_of, sync, write_atomically
from pipelines.preparation.shards import (
    ShardManifest,
    claimed_folder,
    clear_work_folder,
    folder_of,
    require_same_division,
    shards_in,
)
from pipelines.preparation.sources import counted, read_skipped, split_songs

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SongsOfCopies:
    """How copies of a recording become one song, and the songs are assigned to splits, once all files are decoded.

    Attributes:
        valid_fraction: Fraction of the songs for validation.
        test_fraction: Fraction of the songs for testing.
        keep_splits: Whether items keep their splits; copies in two splits are then two songs.
    """

    valid_fraction: float
    test_fraction: float
    keep_splits: bool

    def apply(self, table: pa.Table) -> pa.Table:
        """The items of an index in their order, with other songs and splits."""
        digests = numbered(table["digest"]).to_numpy().astype(np.int64)
        splits = table["split"].to_numpy()
        # If the folders are the splits, a recording that is in two of them is two songs.
        _, firsts, recordings = np.unique(
            digests * len(SPLITS) + splits if self.keep_splits else digests, return_index=True, return_inverse=True
        )
        if num_copies := len(table) - len(firsts):
            _logger.warning("%d of %d files are copies of others; copies count as one song.", num_copies, len(table))
        if num_in_two := len(firsts) - len(np.unique(digests)):
            _logger.warning("Recordings in more than one split: %d; scores on them are meaningless.", num_in_two)
        song_ids = table["id"].take(pa.array(firsts[recordings]))
        if not self.keep_splits:
            names = song_ids.to_pylist()
            split_of = split_songs(names, self.valid_fraction, self.test_fraction)
            codes = {song: SPLITS.index(split) for song, split in split_of.items()}
            table = replaced_column(table, "split", pa.array([codes[song] for song in names], pa.int8()))
        return with_songs(table, song_ids)


def merge(destination: Path, max_skipped_fraction: float = 0.5) -> Corpus:
    """Merges the shards of a corpus, or opens it if that is done.

    Args:
        destination: Folder of the corpus.
        max_skipped_fraction: Fraction of the audio files, from 0 to 1, that may be unusable.

    Raises:
        UsageError: If a shard is missing, damaged or was made differently, if no file can be used, or if another
            process is merging.
        ClmrError: If more files than allowed cannot be used.
        OSError: If the disk is full; nothing is published then.
    """
    if not (destination / MANIFEST_FILE).is_file():
        if not shards_in(destination):
            raise UsageError(f"{destination} has neither shards nor a corpus; prepare its shards with --shard first.")
        with claimed_folder(destination) as work:
            # Another process may have finished it before this one had the lock.
            if not (destination / MANIFEST_FILE).is_file():
                publish(destination, max_skipped_fraction, work)
    clear_work_folder(destination)
    return Corpus.open(destination)


def publish(destination: Path, max_skipped_fraction: float, work: Path) -> None:
    """Writes skipped.jsonl, index and manifest of a corpus from its shards; see `merge`.

    Args:
        destination: Folder of the corpus, which the caller has claimed.
        max_skipped_fraction: See `merge`.
        work: Folder for drafts.
    """
    finished = _finished_shards(destination)
    made_from = finished[0].made_from
    rejected, unusable = _left_out(finished)
    left_out = sorted([*rejected, *unusable], key=lambda file: os.fsencode(file.source))
    write_atomically(destination / SKIPPED_FILE, lines_of(left_out), draft_folder=work)
    _require_enough(unusable, sum(shard.num_files for shard in finished), destination, max_skipped_fraction)

    table = _joined_indexes(finished)
    if made_from["copies"]:
        table = SongsOfCopies(**made_from["copies"]).apply(table)
    else:
        table = with_songs(table, table["song_id"])
    _warn_of_empty_splits(made_from["splits"], table)
    outline = dataclasses.replace(
        CorpusManifest.from_json(json.dumps(made_from["outline"])),
        num_skipped=dict(collections.Counter(file.reason for file in left_out)),
        audio_files=tuple(
            AudioFile(str(shard.folder.relative_to(destination) / file.file), file.num_samples)
            for shard in finished
            for file in shard.audio_files
        ),
    )
    sync(finished[0].folder.parent)
    write_corpus(destination, table, outline, work)


def lines_of(rows: Iterable[SkippedFile]) -> bytes:
    """The text of skipped.jsonl."""
    return b"".join(row.to_json().encode("ascii") + b"\n" for row in rows)


def _finished_shards(destination: Path) -> list[ShardManifest]:
    """The manifests of all shards in their order, checked."""
    shards = shards_in(destination)
    num_shards = shards[0].num_shards
    require_same_division(destination, num_shards)
    wanted = [Shard(number, num_shards) for number in range(num_shards)]
    manifests = {shard: ShardManifest.read(folder_of(shard, destination)) for shard in wanted}
    if missing := [shard for shard in wanted if manifests[shard] is None]:
        raise UsageError(f"{destination} lacks the shards {named(missing)}; finish each with --shard and merge again.")
    for shard in manifests.values():
        _require_whole(shard)
    made_from = manifests[wanted[0]].made_from
    differences = {shard: manifests[shard].difference_from(made_from) for shard in wanted}
    if others := [shard for shard in wanted if differences[shard]]:
        alike = [shard for shard in wanted if not differences[shard]]
        raise UsageError(
            f"The shards {named(others)} of {destination} do not belong to {named(alike)}: they were made with "
            f"{differences[others[0]]}; delete the folders of those that are out of date and prepare them again."
        )
    return list(manifests.values())


def _require_whole(shard: ShardManifest) -> None:
    advice = f"delete {shard.folder} and prepare that shard again"
    for name, expected in shard.sha256.items():
        path = shard.folder / name
        if not path.is_file() or sha256_of(path) != expected:
            raise UsageError(f"{path} is missing or was changed after the shard was prepared; {advice}.")
    for file in shard.audio_files:
        require_size(shard.folder, file, advice)


def _left_out(shards: Iterable[ShardManifest]) -> tuple[list[SkippedFile], list[SkippedFile]]:
    """The files that the pipeline left out itself, and those that cannot be used."""
    rejected: list[SkippedFile] = []
    unusable: list[SkippedFile] = []
    for shard in shards:
        rows = read_skipped(shard.folder / SKIPPED_FILE)
        rejected += rows[: shard.num_rejected]
        unusable += rows[shard.num_rejected :]
    return rejected, unusable


def _joined_indexes(shards: Iterable[ShardManifest]) -> pa.Table:
    tables, num_samples = [], 0
    for shard in shards:
        table = pq.read_table(shard.folder / INDEX_FILE)
        offsets = pc.add(table["offset_samples"], pa.scalar(num_samples, pa.int64()))
        tables.append(replaced_column(table, "offset_samples", offsets))
        # There are none with storage "direct", so all offsets stay zero.
        num_samples += sum(file.num_samples for file in shard.audio_files)
    return pa.concat_tables(tables)


def _require_enough(
    unusable: Sequence[SkippedFile], num_files: int, destination: Path, max_skipped_fraction: float
) -> None:
    found = f"{len(unusable)} of {num_files} audio files cannot be used ({counted(unusable)})"
    if len(unusable) == num_files:
        raise UsageError(f"{found}, so the corpus would be empty; see the reasons in {destination / SKIPPED_FILE}.")
    if len(unusable) > max_skipped_fraction * num_files:
        raise ClmrError(
            f"{found}; see {destination / SKIPPED_FILE}, and if that is expected, start again with "
            f"--max-skipped-fraction {min(1.0, -(-len(unusable) * 100 // num_files) / 100):g}."
        )


def _warn_of_empty_splits(splits: Iterable[str], table: pa.Table) -> None:
    # With few songs, the one drawn for validation may be broken.
    present = {SPLITS[code] for code in np.unique(table["split"].to_numpy())}
    for split in sorted(set(splits) - present):
        _logger.warning("None of the files for the split %s can be used; the corpus does not have this split.", split)
