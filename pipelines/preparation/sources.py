"""The files of a corpus with their songs, splits and labels, and the tables that they are read from."""

import collections
import csv
import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from os import fsencode
from pathlib import Path

from clmr_tf.audio.listing import SkippedFile
from clmr_tf.data.index import SPLITS
from clmr_tf.errors import UsageError


@dataclasses.dataclass(frozen=True, slots=True)
class SourceFile:
    """One audio file, which becomes one item.

    Attributes:
        path: Where it is.
        item_id: Unique name of the item, UTF-8.
        song_id: The same for all items of one song, which are in one split.
        source: Its path relative to the source folder; names that are not UTF-8 as `os.fsdecode` gives them.
        split: "train", "valid" or "test".
        tags: Some of the corpus' tag names.
    """

    path: Path
    item_id: str
    song_id: str
    source: str
    split: str
    tags: tuple[str, ...] = ()


def check_sources(sources: Iterable[SourceFile], tag_names: Iterable[str]) -> None:
    """Checks a pipeline's list of files.

    Raises:
        UsageError: If an item id occurs twice, a split or tag is unknown, or a song is in two splits.
    """
    item_ids: set[str] = set()
    split_of: dict[str, str] = {}
    known_tags = set(tag_names)
    for source in sources:
        if source.item_id in item_ids:
            raise UsageError(f"Two files have the item id {source.item_id!r}; give every item its own id.")
        item_ids.add(source.item_id)
        if source.split not in SPLITS:
            raise UsageError(f"{source.item_id!r} is in the split {source.split!r}; there are only {list(SPLITS)}.")
        if split_of.setdefault(source.song_id, source.split) != source.split:
            raise UsageError(f"The song {source.song_id!r} is in two splits; keep each song in one.")
        if unknown := set(source.tags) - known_tags:
            raise UsageError(f"{source.item_id!r} has the tag {min(unknown)!r}, which the corpus does not have.")


def sources_digest(sources: Iterable[SourceFile]) -> str:
    """SHA-256 over everything about the sources but their content, which tells whether a list of files has changed."""
    return _digest([source.item_id, source.song_id, source.source, source.split, source.tags] for source in sources)


def files_digest(sources: Iterable[SourceFile]) -> str:
    """SHA-256 over the paths, sizes and modification times of the files, which decides whether work can be resumed."""
    return _digest([str(source.path), *_size_and_time(source.path)] for source in sources)


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        # Removed since it was listed; decoding reports it.
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _digest(rows: Iterable[list[object]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row).encode("ascii") + b"\n")
    return digest.hexdigest()


def counted(skipped: Iterable[SkippedFile]) -> str:
    """How many files were left out for each reason, the most frequent first: "3 unreadable, 1 silent"."""
    return counted_reasons(collections.Counter(file.reason for file in skipped))


def read_skipped(path: Path) -> list[SkippedFile]:
    """The files in a skipped.jsonl."""
    return [SkippedFile(**json.loads(line)) for line in path.read_text(encoding="ascii").splitlines()]


def counted_reasons(num_skipped: Mapping[str, int]) -> str:
    """The same from counts per reason, as in a manifest."""
    by_frequency = sorted(num_skipped.items(), key=lambda entry: (-entry[1], entry[0]))
    return ", ".join(f"{count} {reason}" for reason, count in by_frequency) or "none"


def split_songs(song_ids: Iterable[str], valid_fraction: float, test_fraction: float) -> dict[str, str]:
    """Puts every song into "train", "valid" or "test"; depends on the song ids only, not on their order.

    The songs are ranked by a hash of their ids; the first go to "valid", the next to "test", so that the fractions
    are exact to the nearest song. A fraction above zero gets at least one song if there are two songs ("valid") or
    three ("test"); "train" always keeps one.

    Args:
        song_ids: Songs; repetitions do not count.
        valid_fraction: Fraction for "valid", from 0 to 1.
        test_fraction: Fraction for "test", from 0 to 1; together at most 1.

    Returns:
        The split of every song.
    """
    ranked = sorted(set(song_ids), key=lambda song: hashlib.sha256(fsencode(song)).digest())
    num_valid = _num_songs(valid_fraction, len(ranked), 2)
    num_test = _num_songs(test_fraction, len(ranked), 3)
    num_test = min(num_test, max(0, len(ranked) - 1 - num_valid))
    splits = ["valid"] * num_valid + ["test"] * num_test + ["train"] * (len(ranked) - num_valid - num_test)
    return dict(zip(ranked, splits, strict=True))


def _num_songs(fraction: float, num_songs: int, num_needed: int) -> int:
    if fraction == 0 or num_songs < num_needed:
        return 0
    return min(max(1, round(fraction * num_songs)), num_songs - num_needed + 1)


# The longest text in the tables of the FMA is a few hundred thousand characters; Python stops at 131,072 by default.
_MAX_FIELD_NUM_CHARACTERS = 2**24


def read_rows(path: Path, delimiter: str) -> Iterator[list[str]]:
    """The rows of a table in UTF-8 with optional quotes, without empty rows.

    Raises:
        UsageError: If the file cannot be read or is not such a table.
    """
    limit_before = csv.field_size_limit(_MAX_FIELD_NUM_CHARACTERS)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield from (row for row in csv.reader(file, delimiter=delimiter) if row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be read ({reason}); --help says where it comes from.") from error
    finally:
        csv.field_size_limit(limit_before)


def read_records(path: Path, delimiter: str, columns: Iterable[str]) -> Iterator[dict[str, str]]:
    """The rows of a table whose first row names its columns.

    Args:
        path: The table.
        delimiter: Separator of the columns.
        columns: Columns that it must have.

    Raises:
        UsageError: See `read_rows`; also if a column is missing, or if a row has the wrong number of fields.
    """
    rows = read_rows(path, delimiter)
    header = next(rows, [])
    missing = [column for column in columns if column not in header]
    if missing:
        raise UsageError(f"{path} has no column {missing[0]!r}; fetch it again (--help says where it comes from).")
    for number, row in enumerate(rows, start=2):
        yield _record(path, number, header, row)


def _record(path: Path, number: int, header: list[str], row: list[str]) -> dict[str, str]:
    if len(row) != len(header):
        raise UsageError(f"{path} has {len(row)} fields instead of {len(header)} in row {number}; fetch it again.")
    return dict(zip(header, row, strict=True))


def read_pairs(path: Path) -> dict[str, str]:
    """A tab-separated table of two columns without a header, as a dictionary from the first to the second.

    Raises:
        UsageError: See `read_rows`; also if a row does not have two fields, or if a key occurs twice.
    """
    pairs: dict[str, str] = {}
    for number, row in enumerate(read_rows(path, "\t"), start=1):
        key, value = _record(path, number, ["key", "value"], row).values()
        if key in pairs:
            raise UsageError(f"{path} has {key!r} twice; fetch it again.")
        pairs[key] = value
    return pairs


def parse_label_vector(text: str, num_labels: int, where: Path) -> list[bool]:
    """Reads "[0.0, 1.0, ...]" as JSON; nothing is evaluated.

    Raises:
        UsageError: If it is anything but `num_labels` zeros and ones.
    """
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, list) or len(values) != num_labels or any(value not in (0, 1) for value in values):
        raise UsageError(f"{where} has {text[:40]!r} instead of a list of {num_labels} zeros and ones; fetch it again.")
    return [value == 1 for value in values]


def require_count(where: object, noun: str, received: int, *expected: int) -> None:
    """Raises UsageError unless a table has the published number of entries."""
    if received not in expected:
        wanted = " or ".join(f"{count:,}" for count in expected)
        raise UsageError(f"{where} has {received:,} {noun} instead of the published {wanted}; fetch it again.")


def require_split_counts(where: object, sources: Collection[SourceFile], expected: Mapping[str, int]) -> None:
    """Raises UsageError unless every split has the published number of items."""
    for split, count in expected.items():
        received = sum(source.split == split for source in sources)
        require_count(where, f"items in the split {split}", received, count)
