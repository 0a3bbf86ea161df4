"""Tables of embeddings on disk: one .npz file, or a folder of Parquet parts that may be larger than the memory.

TABLE/manifest.json          settings, counts and the list of parts with skipped files; written last
TABLE/songs/PART.parquet     a row for each song: path, size, length, flags, mean embedding
TABLE/windows/PART.parquet   a row for each window: path, time, embedding
TABLE/shards/SHARD.json      what each shard did; not read any more once the manifest is written

A part has the files of a contiguous range of the sorted list. Its name is a hash of the settings and of the path, size
and modification time of its files, so a part is never changed, and whoever writes it twice writes the same on machines
of one kind.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from clmr_tf import __version__
from clmr_tf.audio.listing import SkippedFile
from clmr_tf.config.command_line import from_json
from clmr_tf.console import printable
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.export.model_folder import is_same_model
from clmr_tf.files import UnreadableArraysError, read_arrays, replaced_file, sha256_of, write_atomically
from clmr_tf.inference.embeddings import FileEmbedding

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
SONGS_FOLDER = "songs"
WINDOWS_FOLDER = "windows"
SHARDS_FOLDER = "shards"

_METADATA_KEY = b"clmr_tf"
# Names of the files that `write_part` and `embed_shard` write, and of their drafts, see `clmr_tf.files.replaced_file`.
_PART_FILE = re.compile(r"[0-9a-f]{20}\.parquet")
_RECORD_FILE = re.compile(r"\d{5}-of-\d{5}\.json")
_DRAFT_FILE = re.compile(rf"\.({_PART_FILE.pattern}|{_RECORD_FILE.pattern}|{re.escape(MANIFEST_FILE)})\.[0-9a-f]{{8}}")
# 8 MB of embeddings: the windows of a part are never in memory together.
_ROWS_PER_GROUP = 4096
# What pyarrow and json raise for damaged files.
_OF_DAMAGED_FILES = (OSError, ValueError, KeyError, TypeError, IndexError, UsageError)


@dataclasses.dataclass(frozen=True)
class TableSettings:
    """How embeddings were made; only parts with equal settings make a table.

    Attributes:
        model_hash: SHA-256 of the weights.
        sample_rate_hz: Sample rate of the model.
        window_num_samples: Length of a window.
        hop_num_samples: Distance between the starts of two windows.
        embedding_dim: Length of an embedding.
        package_version: Version of this package.
        format_version: Version of the format of the table.
    """

    model_hash: str
    sample_rate_hz: int
    window_num_samples: int
    hop_num_samples: int
    embedding_dim: int
    package_version: str = __version__
    format_version: int = FORMAT_VERSION

    def require_same(self, others: "TableSettings", owner: str, other_owner: str) -> None:
        """Raises UsageError, which names the first difference, if the settings differ."""
        if self.model_hash != others.model_hash and is_same_model(self.model_hash, others.model_hash):
            # The hash of float32 is the shorter one, so it comes first.
            exact, _ = sorted([self.model_hash, others.model_hash])
            own, other = (
                "float32" if one.model_hash == exact else "8-bit integers (--runtime litert-int8)"
                for one in (self, others)
            )
            raise UsageError(
                f"{owner} uses {own}, but {other_owner} uses {other}; use the same --runtime for the whole table, or "
                "another --out."
            )
        for name, value in dataclasses.asdict(self).items():
            if value != getattr(others, name):
                raise UsageError(
                    f"{owner} has {name} {value}, but {other_owner} has {getattr(others, name)}; use the same model, "
                    "--hop-seconds and version of this package for the whole table, or another --out."
                )


@dataclasses.dataclass(frozen=True, slots=True)
class ListedFile:
    """A file to embed, as it was when it was listed.

    Attributes:
        path: Its absolute path.
        num_bytes: Its size.
        modified_ns: Its modification time, in nanoseconds since 1970.
        skipped: Why it cannot be embedded, if that is known already.
    """

    path: str
    num_bytes: int
    modified_ns: int
    skipped: SkippedFile | None = None

    @property
    def key(self) -> tuple[str, int, int]:
        """What a table stores of the file; another key means that it is new or has changed."""
        return printable(self.path), self.num_bytes, self.modified_ns


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a table, as the manifest lists it.

    Attributes:
        name: Name of its files, without the suffix.
        num_songs: Songs that were embedded.
        num_windows: Their windows.
        skipped: The other files, with reasons.
        sha256: Hashes of its files, by folder.
    """

    name: str
    num_songs: int
    num_windows: int
    skipped: tuple[SkippedFile, ...]
    sha256: Mapping[str, str]

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "Part":
        """Reads what `dataclasses.asdict` made of a part."""
        return cls(**{**plain, "skipped": tuple(SkippedFile(**one) for one in plain["skipped"])})


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The manifest of a complete table.

    Attributes:
        settings: How the embeddings were made.
        parts: In the order of the paths of their files.
    """

    settings: TableSettings
    parts: tuple[Part, ...]

    @property
    def num_songs(self) -> int:
        """Songs in the table."""
        return sum(part.num_songs for part in self.parts)

    def write(self, table: Path) -> None:
        """Publishes a table in one step."""
        counts = {
            "num_songs": self.num_songs,
            "num_windows": sum(part.num_windows for part in self.parts),
            "num_skipped": sum(len(part.skipped) for part in self.parts),
        }
        text = json.dumps({**counts, **dataclasses.asdict(self)}, indent=1) + "\n"
        # Drafts there are removed by the next command.
        write_atomically(table / MANIFEST_FILE, text, draft_folder=table / SONGS_FOLDER)


def read_manifest(table: Path) -> Manifest:
    """Reads the manifest of a table folder.

    Raises:
        UsageError: If the folder is not a table, is not complete yet, or is damaged or of another version.
    """
    try:
        plain = json.loads((table / MANIFEST_FILE).read_text(encoding="utf-8"))
        settings = from_json(TableSettings, plain["settings"], where=str(table / MANIFEST_FILE))
        parts = tuple(Part.from_json(part) for part in plain["parts"])
        manifest = Manifest(settings, parts)
    except FileNotFoundError as error:
        if (table / SONGS_FOLDER).is_dir():
            raise UsageError(
                f"{table} is not complete; finish it by the command that began it, or by `python -m clmr_tf.embed "
                f"--merge {table}` if that had --shard."
            ) from error
        raise _not_a_table(table) from error
    except (NotADirectoryError, *_OF_DAMAGED_FILES) as error:
        raise _not_a_table(table) from error
    if settings.format_version != FORMAT_VERSION:
        raise UsageError(f"{table} is of another version; embed the files again.")
    return manifest


def part_name(settings: TableSettings, files: Sequence[ListedFile], instead_of: str = "") -> str:
    """The name of the part that holds these files.

    Args:
        settings: How the embeddings are made.
        files: The files of the part.
        instead_of: The name of a part with the same files, some of which are tried again.
    """
    content = json.dumps([dataclasses.asdict(settings), [file.key for file in files]]) + instead_of
    return hashlib.sha256(content.encode()).hexdigest()[:20]


def foreign_file(table: Path) -> Path | None:
    """A file in the sub-folders of a table that no table has; None if there is none. Hidden files do not count."""
    for folder, own in ((SONGS_FOLDER, _PART_FILE), (WINDOWS_FOLDER, _PART_FILE), (SHARDS_FOLDER, _RECORD_FILE)):
        for path in sorted((table / folder).iterdir()) if (table / folder).is_dir() else ():
            if not path.name.startswith(".") and not own.fullmatch(path.name):
                return path
    return None


def remove_parts(table: Path, kept: Set[str]) -> None:
    """Removes the parts that are not in `kept`, and drafts of processes that were killed; no other file."""
    for path in [*(table / SONGS_FOLDER).iterdir(), *(table / WINDOWS_FOLDER).iterdir()]:
        is_part = _PART_FILE.fullmatch(path.name) and path.stem not in kept
        if is_part or _DRAFT_FILE.fullmatch(path.name):
            path.unlink(missing_ok=True)


def remove_records(table: Path) -> None:
    """Removes what finished shards have recorded; no other file."""
    folder = table / SHARDS_FOLDER
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        if _RECORD_FILE.fullmatch(path.name):
            path.unlink(missing_ok=True)
    # If it holds something else, it stays.
    with contextlib.suppress(OSError):
        folder.rmdir()


def write_part(
    table: Path,
    settings: TableSettings,
    files: Sequence[ListedFile],
    embedded: Iterable[FileEmbedding | SkippedFile],
    name: str | None = None,
) -> Part:
    """Writes a part; its songs last, so a part with songs is whole.

    Args:
        table: Folder of the table.
        settings: How the embeddings are made.
        files: The files of the part.
        embedded: What became of each file, in the same order.
        name: From `part_name`, with these files.

    Raises:
        ClmrError: If another process has replaced it meanwhile by one with other last bits.
        OSError: If it cannot be written.
    """
    name = name or part_name(settings, files)
    songs: list[tuple[Any, ...]] = []
    skipped: list[list[Any]] = []
    means = [np.zeros((0, settings.embedding_dim), np.float32)]
    schema = pyarrow.schema([*_WINDOW_FIELDS, _embedding_field(settings)], _metadata(settings, {}))
    waiting = schema.empty_table()
    with (
        replaced_file(_path(table, WINDOWS_FOLDER, name)) as file,
        parquet.ParquetWriter(file, schema, **_WRITER_OPTIONS) as writer,
    ):
        for listed, one in zip(files, embedded, strict=True):
            if isinstance(one, SkippedFile):
                skipped.append([*listed.key, dataclasses.asdict(one)])
                continue
            num_windows = len(one.vectors)
            songs.append((*listed.key, num_windows, *(getattr(one, field.name) for field in _FIELDS_OF_EMBEDDINGS)))
            means.append(one.vectors.mean(axis=0, keepdims=True))
            paths = pyarrow.array([listed.key[0]] * num_windows, pyarrow.string())
            columns = [paths, pyarrow.array(one.times_seconds), _embeddings(one.vectors)]
            waiting = pyarrow.concat_tables([waiting, pyarrow.table(columns, schema=schema)])
            while len(waiting) >= _ROWS_PER_GROUP:
                writer.write_table(waiting.slice(0, _ROWS_PER_GROUP))
                waiting = waiting.slice(_ROWS_PER_GROUP)
        if len(waiting):
            writer.write_table(waiting)
    # With this, `found_part` needs no other record to notice a damaged part.
    others = {"skipped": skipped, "windows_sha256": sha256_of(_path(table, WINDOWS_FOLDER, name))}
    schema = pyarrow.schema([*_SONG_FIELDS, _embedding_field(settings)], _metadata(settings, others))
    columns = [pyarrow.array([song[row] for song in songs], field.type) for row, field in enumerate(_SONG_FIELDS)]
    content = pyarrow.table([*columns, _embeddings(np.concatenate(means))], schema=schema)
    with replaced_file(_path(table, SONGS_FOLDER, name)) as file:
        parquet.write_table(content, file, **_WRITER_OPTIONS)
    part = found_part(table, settings, name)
    if part is None:
        path = _path(table, WINDOWS_FOLDER, name)
        raise ClmrError(f"{path} was changed by another process while the part was written; run it again.")
    return part


def found_part(table: Path, settings: TableSettings, name: str) -> Part | None:
    """Describes a part that was written before, for which all its bytes are read; None if it is missing or damaged."""
    try:
        songs, metadata = _read(table, SONGS_FOLDER, name, settings)
        hashes = hashes_of_part(table, name)
        with _path(table, WINDOWS_FOLDER, name).open("rb") as file:
            num_windows = parquet.read_metadata(file).num_rows
    except _OF_DAMAGED_FILES:
        return None
    if hashes[WINDOWS_FOLDER] != metadata["windows_sha256"]:
        return None
    skipped = tuple(SkippedFile(**one) for *_, one in metadata["skipped"])
    return Part(name, len(songs), num_windows, skipped, hashes)


def hashes_of_part(table: Path, name: str) -> dict[str, str]:
    """SHA-256 of the files of a part, by folder.

    Raises:
        OSError: If one of them is missing or cannot be read.
    """
    return {folder: sha256_of(_path(table, folder, name)) for folder in (SONGS_FOLDER, WINDOWS_FOLDER)}


def keys_of_part(table: Path, settings: TableSettings, name: str) -> list[tuple[str, int, int]]:
    """`ListedFile.key` of all files of a part, sorted.

    Raises:
        UsageError: If the part is missing or damaged.
    """
    content, metadata = _read(table, SONGS_FOLDER, name, settings, ["path", "num_bytes", "modified_ns"])
    songs = zip(*(column.to_pylist() for column in content.columns), strict=True)
    return sorted([*songs, *(tuple(key) for *key, _ in metadata["skipped"])], key=lambda key: key[0].encode())


def read_part(
    table: Path, settings: TableSettings, name: str
) -> dict[tuple[str, int, int], FileEmbedding | SkippedFile]:
    """What became of each file of a part, by `ListedFile.key`.

    Raises:
        UsageError: If the part is missing or damaged.
    """
    songs, metadata = _read(table, SONGS_FOLDER, name, settings)
    windows, _ = _read(table, WINDOWS_FOLDER, name, settings)
    vectors, times_seconds = _vectors(windows), windows["time_seconds"].to_numpy()
    files: dict[tuple[str, int, int], FileEmbedding | SkippedFile] = {
        tuple(key): SkippedFile(**one) for *key, one in metadata["skipped"]
    }
    end = 0
    columns = [songs[field.name].to_pylist() for field in _SONG_FIELDS]
    for path, num_bytes, modified_ns, num_windows, *others in zip(*columns, strict=True):
        start, end = end, end + num_windows
        embedding = FileEmbedding(Path(path), vectors[start:end], times_seconds[start:end], *others)
        files[path, num_bytes, modified_ns] = embedding
    return files


def read_songs(table: Path, settings: TableSettings, name: str) -> dict[str, Any]:
    """The columns of a part's songs by name: lists, and "embedding" as float32 [songs, 512].

    Raises:
        UsageError: If the part is missing, damaged or of another table.
    """
    content, _ = _read(table, SONGS_FOLDER, name, settings)
    return {field.name: content[field.name].to_pylist() for field in _SONG_FIELDS} | {"embedding": _vectors(content)}


def read_windows(
    table: Path, settings: TableSettings, name: str, first_row: int, num_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Some of the windows of a part: their times in seconds, float64 [n], and embeddings, float32 [n, 512].

    Raises:
        UsageError: If the part is missing, damaged or of another table.
    """
    groups = range(first_row // _ROWS_PER_GROUP, -(-(first_row + num_rows) // _ROWS_PER_GROUP))
    content, _ = _read(table, WINDOWS_FOLDER, name, settings, ["time_seconds", "embedding"], groups)
    content = content.slice(first_row - groups.start * _ROWS_PER_GROUP, num_rows)
    return content["time_seconds"].to_numpy(), _vectors(content)


@dataclasses.dataclass(frozen=True)
class Songs:
    """Some of the songs of a table.

    Attributes:
        paths: The files.
        means: Mean embedding of the windows of each file, float32 [songs, 512].
        is_silent: Whether a song is silent, bool [songs].
    """

    paths: Sequence[str]
    means: np.ndarray
    is_silent: np.ndarray


class SongTable:
    """The songs of a table, read block by block.

    Args:
        path: An .npz file, or the folder of a table.

    Attributes:
        path: The table.
        model_hash: SHA-256 of the weights of its model.
        hop_num_samples: Distance between the starts of two windows.
        num_songs: Number of its songs.

    Raises:
        UsageError: If it is not a complete table of embeddings, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._manifest = None if path.suffix == ".npz" and not path.is_dir() else read_manifest(path)
        if self._manifest is None:
            self._songs, self.model_hash, self.hop_num_samples = _songs_of_npz(path)
            self.num_songs = len(self._songs.paths)
        else:
            self.model_hash = self._manifest.settings.model_hash
            self.hop_num_samples = self._manifest.settings.hop_num_samples
            self.num_songs = self._manifest.num_songs

    def blocks(self) -> Iterator[Songs]:
        """Yields all songs in the order of the table, some hundreds at a time from a folder.

        Raises:
            UsageError: If a part is missing, damaged or of another model.
        """
        if self._manifest is None:
            yield self._songs
        for part in self.parts:
            yield self.songs_of(part.name)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of a folder; none for an .npz file."""
        return self._manifest.parts if self._manifest else ()

    def songs_of(self, name: str) -> Songs:
        """The songs of a part of a folder.

        Raises:
            UsageError: If the part is missing, damaged or of another model.
        """
        columns = ["path", "is_silent", "embedding"]
        content, _ = _read(self.path, SONGS_FOLDER, name, self._manifest.settings, columns)
        means = _vectors(content)
        if not np.isfinite(means).all():
            raise _damaged(_path(self.path, SONGS_FOLDER, name))
        return Songs(content["path"].to_pylist(), means, content["is_silent"].to_numpy())


def write_npz(out: Path, table: Path, manifest: Manifest) -> None:
    """Writes all parts of a table folder as one .npz file, for which they are put together in memory."""
    settings = manifest.settings
    songs = [_read(table, SONGS_FOLDER, part.name, settings)[0] for part in manifest.parts]
    windows = [_read(table, WINDOWS_FOLDER, part.name, settings)[0] for part in manifest.parts]
    all_songs = pyarrow.concat_tables(one.replace_schema_metadata() for one in songs)
    skipped = [one for part in manifest.parts for one in part.skipped]
    content = io.BytesIO()
    np.savez(
        content,
        vectors=np.concatenate([_vectors(one) for one in windows]),
        times_seconds=np.concatenate([one["time_seconds"].to_numpy() for one in windows]),
        file_index=np.repeat(np.arange(len(all_songs)), all_songs["num_windows"].to_numpy()),
        paths=np.array(all_songs["path"].to_pylist(), np.str_),
        means=np.concatenate([_vectors(one) for one in songs]),
        num_bytes=all_songs["num_bytes"].to_numpy(),
        modified_ns=all_songs["modified_ns"].to_numpy(),
        durations_seconds=all_songs["duration_seconds"].to_numpy(),
        is_padded=all_songs["is_padded"].to_numpy(),
        is_silent=all_songs["is_silent"].to_numpy(),
        lost_seconds=all_songs["lost_seconds"].to_numpy(),
        skipped_paths=np.array([printable(one.source) for one in skipped], np.str_),
        skipped_reasons=np.array([one.detail for one in skipped], np.str_),
        metadata=np.array(json.dumps(dataclasses.asdict(settings))),
    )
    write_atomically(out, content.getvalue())


def _songs_of_npz(path: Path) -> tuple[Songs, str, int]:
    try:
        arrays = read_arrays(path, "paths", "means", "is_silent", "metadata")
        songs = Songs(arrays["paths"].tolist(), arrays["means"], arrays["is_silent"])
        metadata = json.loads(str(arrays["metadata"]))
        model_hash, hop_num_samples = metadata["model_hash"], metadata["hop_num_samples"]
        is_table = (
            songs.means.dtype == np.float32
            and songs.means.ndim == 2
            and len(songs.means) == len(songs.paths) == len(songs.is_silent)
            and bool(np.isfinite(songs.means).all())
            and isinstance(model_hash, str)
            and hop_num_samples >= 1
            and metadata["format_version"] == FORMAT_VERSION
        )
    except (UnreadableArraysError, ValueError, KeyError, TypeError) as error:
        raise _not_a_table(path) from error
    if not is_table:
        raise UsageError(f"{path} is damaged or of another version; embed the files again.")
    return songs, model_hash, hop_num_samples


def _not_a_table(path: Path) -> UsageError:
    return UsageError(
        f"{path} is not a readable table of embeddings; give a file or folder written by `python -m clmr_tf.embed`."
    )


def _damaged(path: Path) -> UsageError:
    return UsageError(f"{path} is damaged or of another table; remove the table and embed the files again.")


_WINDOW_FIELDS = (pyarrow.field("path", pyarrow.string()), pyarrow.field("time_seconds", pyarrow.float64()))
# Attributes of `FileEmbedding`.
_FIELDS_OF_EMBEDDINGS = (
    pyarrow.field("duration_seconds", pyarrow.float64()),
    pyarrow.field("is_padded", pyarrow.bool_()),
    pyarrow.field("is_silent", pyarrow.bool_()),
    pyarrow.field("lost_seconds", pyarrow.float64()),
)
_SONG_FIELDS = (
    pyarrow.field("path", pyarrow.string()),
    pyarrow.field("num_bytes", pyarrow.int64()),
    pyarrow.field("modified_ns", pyarrow.int64()),
    pyarrow.field("num_windows", pyarrow.int64()),
    *_FIELDS_OF_EMBEDDINGS,
)
# Embeddings do not get smaller by compression, and the other columns are small.
_WRITER_OPTIONS: dict[str, Any] = {"compression": "none", "use_dictionary": ["path"], "write_page_checksum": True}


def _path(table: Path, folder: str, name: str) -> Path:
    return table / folder / f"{name}.parquet"


def _embedding_field(settings: TableSettings) -> pyarrow.Field:
    return pyarrow.field("embedding", pyarrow.list_(pyarrow.float32(), settings.embedding_dim))


def _embeddings(vectors: np.ndarray) -> pyarrow.FixedSizeListArray:
    return pyarrow.FixedSizeListArray.from_arrays(np.ascontiguousarray(vectors, np.float32).ravel(), vectors.shape[1])


def _vectors(content: pyarrow.Table) -> np.ndarray:
    column = content["embedding"].combine_chunks()
    return column.flatten().to_numpy().reshape(-1, column.type.list_size)


def _metadata(settings: TableSettings, others: dict[str, Any]) -> dict[bytes, str]:
    return {_METADATA_KEY: json.dumps({"settings": dataclasses.asdict(settings), **others})}


def _metadata_of(file: parquet.ParquetFile) -> dict[str, Any]:
    return json.loads(file.schema_arrow.metadata[_METADATA_KEY])


def _read(
    table: Path,
    folder: str,
    name: str,
    settings: TableSettings,
    columns: list[str] | None = None,
    row_groups: range | None = None,
) -> tuple[pyarrow.Table, dict[str, Any]]:
    """The columns and the metadata of a file of a part; all columns and rows if None."""
    path = _path(table, folder, name)
    try:
        # Opened here, because pyarrow takes no path that is not UTF-8.
        with path.open("rb") as raw, parquet.ParquetFile(raw, page_checksum_verification=True) as file:
            metadata = _metadata_of(file)
            own_settings = from_json(TableSettings, metadata["settings"], where=str(path))
            groups = range(file.num_row_groups) if row_groups is None else row_groups
            content = file.read_row_groups(groups, columns, use_threads=False)
    except FileNotFoundError as error:
        raise UsageError(
            f"{path} is gone: if an update has just replaced it, run this command again; otherwise embed the files "
            "again with another --out."
        ) from error
    except _OF_DAMAGED_FILES as error:
        raise _damaged(path) from error
    settings.require_same(own_settings, str(table), str(path))
    return content, metadata
