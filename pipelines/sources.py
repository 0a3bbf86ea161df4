"""What a pipeline hands to the preparation: the files to decode, and those that it left out itself."""

import collections
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from clmr_tf.audio_listing import SkippedFile
from clmr_tf.corpus import SPLITS
from clmr_tf.errors import UsageError


@dataclasses.dataclass(frozen=True, slots=True)
class SourceFile:
    """One file that shall become one item.

    Attributes:
        path: Where it is.
        item_id: Unique name of the item, UTF-8.
        song_id: Items of one song share it, and a split.
        source: Its path relative to the corpus' source folder; names that are not UTF-8 as Python spells them.
        split: "train", "valid" or "test".
        tags: Names out of the corpus' tag names.
    """

    path: Path
    item_id: str
    song_id: str
    source: str
    split: str
    tags: tuple[str, ...] = ()


def check_sources(sources: Iterable[SourceFile], tag_names: Iterable[str]) -> None:
    """Sees that a pipeline's list keeps what a corpus promises.

    Raises:
        UsageError: For an item id that occurs twice, an unknown split or tag, a song in two splits.
    """
    item_ids: set[str] = set()
    split_of: dict[str, str] = {}
    known_tags = set(tag_names)
    for source in sources:
        if source.item_id in item_ids:
            raise UsageError(f"Two files want to be the item {source.item_id!r}; give every item a name of its own.")
        item_ids.add(source.item_id)
        if source.split not in SPLITS:
            raise UsageError(f"{source.item_id!r} is in the split {source.split!r}; there are only {list(SPLITS)}.")
        if split_of.setdefault(source.song_id, source.split) != source.split:
            raise UsageError(f"The song {source.song_id!r} is in two splits; keep each song in one.")
        if unknown := set(source.tags) - known_tags:
            raise UsageError(f"{source.item_id!r} has the tag {min(unknown)!r}, which the corpus does not name.")


def listing_digest(sources: Iterable[SourceFile]) -> str:
    """SHA-256 over relative path and size of every file: whether a folder changed, wherever it lies."""
    return _digest([source.source, size] for source, size, _ in _with_size_and_time(sources))


def sources_digest(sources: Iterable[SourceFile]) -> str:
    """SHA-256 over everything about the sources, times of change included, to continue an unfinished corpus."""
    return _digest(
        [str(source.path), source.item_id, source.song_id, source.source, source.split, source.tags, size, changed_ns]
        for source, size, changed_ns in _with_size_and_time(sources)
    )


def _with_size_and_time(sources: Iterable[SourceFile]) -> Iterator[tuple[SourceFile, int, int]]:
    for source in sources:
        try:
            status = source.path.stat()
        except OSError:
            # Gone since it was listed; decoding will say so.
            yield source, -1, -1
        else:
            yield source, status.st_size, status.st_mtime_ns


def _digest(rows: Iterable[list[object]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row).encode("ascii") + b"\n")
    return digest.hexdigest()


def counted(skipped: Iterable[SkippedFile]) -> str:
    """How many files were left out for each reason, the most frequent first: "3 unreadable, 1 silent"."""
    return counted_reasons(collections.Counter(file.reason for file in skipped))


def read_skipped(path: Path, reason: str) -> list[SkippedFile]:
    """The files of a corpus' skipped.jsonl that were left out for `reason`."""
    skipped = [SkippedFile(**json.loads(line)) for line in path.read_text(encoding="ascii").splitlines()]
    return [file for file in skipped if file.reason == reason]


def counted_reasons(num_skipped: Mapping[str, int]) -> str:
    """The same for numbers per reason, as a manifest has them."""
    by_frequency = sorted(num_skipped.items(), key=lambda entry: (-entry[1], entry[0]))
    return ", ".join(f"{count} {reason}" for reason, count in by_frequency) or "none"
