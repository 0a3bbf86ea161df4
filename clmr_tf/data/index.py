"""The index of a corpus: index.parquet, with a row per item.

Numbers are read as arrays. Strings are read only when they are asked for, so that ten million items fit into memory.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clmr_tf.files import replaced_file

INDEX_FILE = "index.parquet"
SPLITS = ("train", "valid", "test")
ROWS_PER_GROUP = 65_536
"""Rows of every row group but the last, so that the bytes of an index do not depend on how its rows came together."""

# The paths are bytes, since names of files need not be UTF-8.
_FIELDS: Mapping[str, pa.DataType] = {
    "id": pa.string(),
    "song_id": pa.string(),
    "song": pa.int32(),
    "source": pa.binary(),
    "split": pa.int8(),
    "tags": pa.list_(pa.int32()),
    "file": pa.binary(),
    "offset_samples": pa.int64(),
    "num_samples": pa.int64(),
    "digest": pa.string(),
    "source_rate_hz": pa.int32(),
    "source_num_channels": pa.int32(),
    "source_num_bytes": pa.int64(),
    "lost_seconds": pa.float64(),
}
_PATHS = ("source", "file")


@dataclasses.dataclass(frozen=True)
class Item:
    """One recording of a corpus.

    Attributes:
        id: Unique name of the item, the same in every preparation.
        song_id: Shared by the items of a song, which are never in two splits or negatives of each other.
        source: Path of the source file, relative to the corpus' source folder.
        split: "train", "valid" or "test".
        tags: Names from the manifest's `tag_names`; empty if the corpus has no labels.
        file: Absolute path of the source file with storage "direct"; empty if the corpus has the audio itself.
        offset_samples: First sample of the item in all PCM files one after the other (0 with storage "direct").
        num_samples: Length at the corpus' sample rate.
        digest: First 16 hex digits of the SHA-256 of the PCM bytes ("direct": of the source file).
        source_rate_hz: Sample rate of the source file.
        source_num_channels: Channels of the source file.
        source_num_bytes: Size of the source file.
        lost_seconds: Estimated duration of what could not be decoded of the source file.
    """

    id: str
    song_id: str
    source: str
    split: str
    tags: tuple[str, ...]
    file: str
    offset_samples: int
    num_samples: int
    digest: str
    source_rate_hz: int
    source_num_channels: int
    source_num_bytes: int
    lost_seconds: float = 0.0

    def to_json(self) -> str:
        """One line of a journal, without the newline."""
        return json.dumps(vars(self), sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> "Item":
        """Reads one line of a journal; raises ValueError if a field is missing or unknown."""
        fields = json.loads(line)
        try:
            return cls(**{**fields, "tags": tuple(fields["tags"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"not an item: {error}") from error


def index_table(items: Iterable[Item], tag_names: Sequence[str]) -> pa.Table:
    """The rows of an index, with splits, tags and songs as numbers.

    Args:
        items: The items in the order of the index.
        tag_names: The tags in the order of their numbers.
    """
    columns: dict[str, list[Any]] = {name: [] for name in _FIELDS if name != "song"}
    tag_codes = {name: code for code, name in enumerate(tag_names)}
    for item in items:
        for name, values in columns.items():
            values.append(getattr(item, name))
    columns["split"] = [SPLITS.index(split) for split in columns["split"]]
    columns["tags"] = [[tag_codes[name] for name in tags] for tags in columns["tags"]]
    for name in _PATHS:
        columns[name] = [path.encode("utf-8", "surrogateescape") for path in columns[name]]
    columns["song"] = [0] * len(columns["id"])
    table = pa.table(columns, schema=schema_of_index())
    return with_songs(table, table["song_id"])


def schema_of_index(tag_names: Sequence[str] = ()) -> pa.Schema:
    """The columns of an index; the metadata say what the numbers of splits and tags mean."""
    metadata = {"splits": json.dumps(SPLITS), "tag_names": json.dumps(tag_names)}
    return pa.schema(list(_FIELDS.items()), metadata)


def with_songs(table: pa.Table, song_ids: pa.ChunkedArray) -> pa.Table:
    """Replaces the songs of an index; they are numbered in the order of their first items."""
    return replaced_column(replaced_column(table, "song_id", song_ids), "song", numbered(song_ids))


def numbered(names: pa.ChunkedArray) -> pa.ChunkedArray:
    """The number of each name, int32; names are numbered in the order in which they occur first."""
    return pa.chunked_array([chunk.indices for chunk in names.dictionary_encode().chunks], pa.int32())


def replaced_column(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The table with other values in a column."""
    return table.set_column(table.schema.get_field_index(name), name, values)


def write_index(
    path: Path, table: pa.Table, tag_names: Sequence[str], *, storage: str, draft_folder: Path | None = None
) -> str:
    """Writes an index in one step.

    Args:
        path: The file.
        table: Its rows, see `index_table`.
        tag_names: The tags in the order of their numbers.
        storage: "pcm" or "direct".
        draft_folder: See `clmr_tf.files.replaced_file`.

    Returns:
        The fingerprint of its content, which is the same for every version of the Parquet library.
    """
    content = hashlib.sha256()
    schema = schema_of_index(tag_names)
    with replaced_file(path, draft_folder=draft_folder) as file, parquet_writer(file, schema) as writer:
        for begin in range(0, len(table), ROWS_PER_GROUP):
            group = table.slice(begin, ROWS_PER_GROUP).combine_chunks()
            writer.write_table(group.cast(schema), ROWS_PER_GROUP)
            for line in _fingerprinted_lines(group, tag_names, storage):
                content.update(line)
    return content.hexdigest()


def parquet_writer(file: Any, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer whose bytes depend on the rows and the version of pyarrow alone, if it gets whole row groups."""
    return pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=False)


def _fingerprinted_lines(table: pa.Table, tag_names: Sequence[str], storage: str) -> Iterator[bytes]:
    # The text of an item in the first format of corpora, so that a converted corpus keeps its fingerprint.
    file = {} if storage == "direct" else {"file": "audio.pcm"}
    splits, tags = table["split"].to_pylist(), table["tags"].to_pylist()
    for item, split, codes in zip(_strings_and_sizes(table), splits, tags, strict=True):
        fields = {**item, "split": SPLITS[split], "tags": [tag_names[code] for code in codes], **file}
        yield json.dumps(fields, sort_keys=True).encode("ascii") + b"\n"


def _strings_and_sizes(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The fields of every item but split and tags."""
    names = [field.name for field in dataclasses.fields(Item) if field.name not in ("split", "tags")]
    columns = [table[name].to_pylist() for name in names]
    for values in zip(*columns, strict=True):
        fields = dict(zip(names, values, strict=True))
        for name in _PATHS:
            fields[name] = fields[name].decode("utf-8", "surrogateescape")
        yield fields


class IndexFile:
    """Reads rows of an index; the row group read last is kept.

    Args:
        path: An existing index.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not an index.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        schema = pq.read_schema(path)
        if schema.names != list(_FIELDS) or schema.types != list(_FIELDS.values()):
            raise ValueError(f"{path.name} has other columns than an index")
        self._kept: tuple[int, pa.Table] | None = None

    def column(self, name: str) -> pa.ChunkedArray:
        """A whole column."""
        return pq.read_table(self._path, columns=[name])[name]

    def numbers(self) -> dict[str, np.ndarray]:
        """The columns split, song, offset_samples and num_samples, by name."""
        names = ["split", "song", "offset_samples", "num_samples"]
        table = pq.read_table(self._path, columns=names)
        return {name: table[name].to_numpy() for name in names}

    def fields(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """The fields of the items in these rows, in this order, without split and tags."""
        groups = rows // ROWS_PER_GROUP
        found: dict[int, dict[str, Any]] = {}
        for group in np.unique(groups).tolist():
            of_group = rows[groups == group]
            taken = self._group(group).take(pa.array(of_group - group * ROWS_PER_GROUP))
            found.update(zip(of_group.tolist(), _strings_and_sizes(taken), strict=True))
        return [found[row] for row in rows.tolist()]

    def _group(self, number: int) -> pa.Table:
        kept = self._kept
        if kept is None or kept[0] != number:
            with pq.ParquetFile(self._path) as file:
                self._kept = kept = (number, file.read_row_group(number))
        return kept[1]


def tag_arrays(tags: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The tags of all rows one after the other, int32, and where each row's begin, with their end: int64 [rows + 1]."""
    begins = np.zeros(len(tags) + 1, np.int64)
    np.cumsum(pc.list_value_length(tags).to_numpy(), out=begins[1:])
    return pc.list_flatten(tags).to_numpy(), begins
