"""Reads the tables that data sets are published with, and counts them."""

import csv
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from clmr_tf.errors import UsageError
from pipelines.sources import SourceFile

# The longest text in the tables of the FMA is a few hundred thousand characters; Python stops at 131,072 by default.
_MAX_FIELD_NUM_CHARACTERS = 2**24


def read_rows(path: Path, delimiter: str) -> Iterator[list[str]]:
    """The rows of a table in UTF-8 with optional quotes; empty ones are left out.

    Raises:
        UsageError: If the file cannot be read or is no such table.
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
        delimiter: What separates its columns.
        columns: Those that it must have.

    Raises:
        UsageError: As `read_rows`, if a column is missing, or if a row has another number of fields.
    """
    rows = read_rows(path, delimiter)
    header = next(rows, [])
    missing = [column for column in columns if column not in header]
    if missing:
        raise UsageError(f"{path} has no column {missing[0]!r}; fetch it again from where --help says.")
    for number, row in enumerate(rows, start=2):
        yield _record(path, number, header, row)


def _record(path: Path, number: int, header: list[str], row: list[str]) -> dict[str, str]:
    if len(row) != len(header):
        raise UsageError(f"{path} has {len(row)} fields instead of {len(header)} in row {number}; fetch it again.")
    return dict(zip(header, row, strict=True))


def read_pairs(path: Path) -> dict[str, str]:
    """A table of two columns without a header, tab-separated: from the first column to the second.

    Raises:
        UsageError: As `read_rows`, if a row has not two fields, or if a key occurs twice.
    """
    pairs: dict[str, str] = {}
    for number, row in enumerate(read_rows(path, "\t"), start=1):
        key, value = _record(path, number, ["key", "value"], row).values()
        if key in pairs:
            raise UsageError(f"{path} has {key!r} twice; fetch it again.")
        pairs[key] = value
    return pairs


def parse_label_vector(text: str, num_labels: int, where: Path) -> list[bool]:
    """Reads "[0.0, 1.0, ...]", which is JSON as well as Python, and never evaluates it.

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
    """Raises UsageError unless a table has as many entries as were published."""
    if received not in expected:
        wanted = " or ".join(f"{count:,}" for count in expected)
        raise UsageError(f"{where} has {received:,} {noun} instead of the published {wanted}; fetch it again.")


def require_split_counts(where: object, sources: Collection[SourceFile], expected: Mapping[str, int]) -> None:
    """Raises UsageError unless every split has as many items as were published."""
    for split, count in expected.items():
        received = sum(source.split == split for source in sources)
        require_count(where, f"items in the split {split}", received, count)
