"""An approximate index of the songs of a table folder, for millions of songs.

TABLE/index/manifest.json    which segment has the songs of which parts of the table
TABLE/index/SEGMENT.usearch  a graph of nearest neighbours (HNSW), which is memory-mapped

A segment has at most a million songs. Parts of a table never change, so an index is brought up to date by adding the
parts that it lacks, and by leaving out of each search those that the table no longer has.
"""

import dataclasses
import importlib
import json
import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from clmr_tf.errors import UsageError, install_extra
from clmr_tf.files import exclusive_lock, put_in_place, write_atomically
from clmr_tf.inference.similarity import Neighbour, normalized
from clmr_tf.inference.tables import SongTable

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
INDEX_FOLDER = "index"

# A graph is in memory while it is built: 1.2 GB.
_MAX_SEGMENT_SONGS = 1_000_000
# Neighbours of a song, and songs that are considered when one is added and in a search.
_GRAPH = {"connectivity": 16, "expansion_add": 128, "expansion_search": 128}
_SUFFIX = ".usearch"
# Segments, and drafts of segments and of the manifest.
_OWN_FILE = re.compile(r"\.?[0-9a-f]{16}\.usearch|\.manifest\.json\.[0-9a-f]{8}")

OnSong = Callable[[int, int], None]
"""Called with the number of songs added and the total."""


@dataclasses.dataclass(frozen=True)
class Segment:
    """A file of the index.

    Attributes:
        file: Its name.
        num_bytes: Its size.
        parts: Name and number of songs of each part, in the order in which they were added.
    """

    file: str
    num_bytes: int
    parts: tuple[tuple[str, int], ...]

    @property
    def num_songs(self) -> int:
        """Songs of all its parts, also of those that the table no longer has."""
        return sum(num_songs for _, num_songs in self.parts)


def has_index(table: Path) -> bool:
    """Whether there is an index, be it up to date or not."""
    return (table / INDEX_FOLDER / MANIFEST_FILE).exists()


class ApproximateIndex:
    """Searches the index of a table; `update_index` opens it.

    Args:
        table: A table folder.
        segments: The files of its index.
    """

    def __init__(self, table: SongTable, segments: Sequence[Segment]) -> None:
        self._table = table
        self._segments = []
        names = {part.name for part in table.parts}
        for segment in segments:
            graph = _opened(table.path / INDEX_FOLDER / segment.file, view=True)
            # Song n of the segment is in the last part that starts at or before n.
            starts = np.cumsum([0, *(num_songs for _, num_songs in segment.parts)])
            is_live = np.array([name in names for name, _ in segment.parts])
            self._segments.append((graph, segment, starts, is_live))

    def nearest(self, vector: np.ndarray, count: int) -> list[Neighbour]:
        """Almost always the nearest songs, nearest first; their similarities are exact.

        Args:
            vector: Embedding of the query, float [dimensions], of any norm.
            count: Maximal number of songs.
        """
        query = normalized(vector)
        found = []
        for graph, segment, starts, is_live in self._segments:
            num_asked = count
            while True:
                matches = graph.search(query, num_asked)
                parts = np.searchsorted(starts, matches.keys, "right") - 1
                rows = np.flatnonzero(is_live[parts])
                # At most half of the songs are of parts that the table no longer has.
                if len(rows) >= count or num_asked >= segment.num_songs:
                    break
                num_asked = min(2 * num_asked, segment.num_songs)
            for row in rows[:count]:
                name, song = segment.parts[parts[row]][0], int(matches.keys[row]) - int(starts[parts[row]])
                found.append((float(matches.distances[row]), name, song))
        neighbours = []
        for _, name, song in sorted(found)[:count]:
            songs = self._table.songs_of(name)
            cosine = float(normalized(songs.means[song]) @ query)
            neighbours.append(Neighbour(songs.paths[song], cosine, bool(songs.is_silent[song])))
        return sorted(neighbours, key=lambda one: -one.cosine)


def _opened(path: Path, *, view: bool) -> Any:
    usearch = _usearch()
    try:
        graph = usearch.Index.restore(str(path), view=view)
        if graph is not None:
            graph.expansion_add, graph.expansion_search = _GRAPH["expansion_add"], _GRAPH["expansion_search"]
            return graph
    # The library raises errors of many kinds for damaged files.
    except (RuntimeError, ValueError, KeyError, OSError):
        pass
    if not path.exists():
        raise UsageError(f"{path} is gone, since another process has updated the index; run this command again.")
    raise UsageError(f"{path} is damaged; remove {path.parent} and build the index again.")


def update_index(table: SongTable, on_song: OnSong = lambda done, of: None) -> ApproximateIndex:
    """Opens the index of a table, after building it or adding what it lacks.

    A killed process loses at most the segment that it was at.

    Args:
        table: A table folder.
        on_song: Called after each part that was added.

    Raises:
        UsageError: If usearch is not installed, another process builds the index, or a part or the index is damaged.
        OSError: If the index cannot be written.
    """
    folder = table.path / INDEX_FOLDER
    segments = _read_segments(folder)
    num_songs = {part.name: part.num_songs for part in table.parts if part.num_songs}
    if _is_current(segments, num_songs):
        return ApproximateIndex(table, segments)
    folder.mkdir(exist_ok=True)
    with exclusive_lock(folder / ".lock", f"Another process is building the index of {table.path}; wait for it."):
        segments = _read_segments(folder)
        # The drafts of a killed process may have filled the disk.
        _remove_other_segments(folder, segments)
        segments = [one for one in segments if _live_songs(one, num_songs) > one.num_songs / 2]
        present = {name for segment in segments for name, _ in segment.parts}
        missing = [(name, count) for name, count in num_songs.items() if name not in present]
        num_missing = sum(count for _, count in missing)
        growing = segments[-1] if segments and segments[-1].num_songs + num_missing <= _MAX_SEGMENT_SONGS else None
        if growing and missing:
            segments.pop()
        builder = _Builder(table, sum(count for _, count in missing), on_song)
        while missing:
            chunk = _first_songs(missing, _MAX_SEGMENT_SONGS)
            del missing[: len(chunk)]
            segments.append(builder.segment(folder, chunk, growing))
            growing = None
            _write_segments(folder, segments)
        _write_segments(folder, segments)
        _remove_other_segments(folder, segments)
    return ApproximateIndex(table, segments)


class _Builder:
    """Adds the songs of parts to segments."""

    def __init__(self, table: SongTable, num_songs: int, on_song: OnSong) -> None:
        self._table, self._num_songs, self._on_song = table, num_songs, on_song
        self._num_added = 0

    def segment(self, folder: Path, parts: Sequence[tuple[str, int]], growing: Segment | None) -> Segment:
        """Writes a segment with the songs of `growing`, if that is given, and those of `parts`."""
        if growing:
            graph = _opened(folder / growing.file, view=False)
            before, num_songs = growing.parts, growing.num_songs
        else:
            graph, before, num_songs = None, (), 0
        for name, count in parts:
            vectors = normalized(self._table.songs_of(name).means)
            if graph is None:
                graph = _usearch().Index(ndim=vectors.shape[1], metric="l2sq", dtype="f16", **_GRAPH)
            graph.add(np.arange(num_songs, num_songs + count), vectors)
            num_songs += count
            self._num_added += count
            self._on_song(self._num_added, self._num_songs)
        path = folder / f"{secrets.token_hex(8)}{_SUFFIX}"
        draft = path.with_name(f".{path.name}")
        try:
            _save(graph, draft)
            put_in_place(draft, path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        return Segment(path.name, path.stat().st_size, (*before, *parts))


def _save(graph: Any, draft: Path) -> None:
    try:
        graph.save(str(draft))
    except RuntimeError as error:
        # The library does not say why; to write there says it, if the disk is full.
        with draft.open("ab") as file:
            file.write(bytes(2**20))
        raise OSError(f"{draft} cannot be written ({error}); build the index again") from error


def _first_songs(parts: Sequence[tuple[str, int]], max_songs: int) -> list[tuple[str, int]]:
    """The first parts with at most so many songs, at least one part."""
    ends = np.cumsum([count for _, count in parts])
    return list(parts[: max(1, int(np.searchsorted(ends, max_songs, "right")))])


def _live_songs(segment: Segment, num_songs: dict[str, int]) -> int:
    return sum(count for name, count in segment.parts if name in num_songs)


def _is_current(segments: Sequence[Segment], num_songs: dict[str, int]) -> bool:
    present = {name for segment in segments for name, _ in segment.parts}
    return present.issuperset(num_songs) and all(_live_songs(one, num_songs) > one.num_songs / 2 for one in segments)


def _remove_other_segments(folder: Path, segments: Sequence[Segment]) -> None:
    """Removes segments that are not in use and drafts; no other file."""
    files = {segment.file for segment in segments}
    for path in list(folder.iterdir()):
        if path.name not in files and _OWN_FILE.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _write_segments(folder: Path, segments: Sequence[Segment]) -> None:
    plain = {"format_version": FORMAT_VERSION, "segments": [dataclasses.asdict(one) for one in segments]}
    write_atomically(folder / MANIFEST_FILE, json.dumps(plain, indent=1) + "\n")


def _read_segments(folder: Path) -> list[Segment]:
    """The segments that are whole; others are built again."""
    try:
        plain = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        if plain["format_version"] != FORMAT_VERSION:
            return []
        segments = [Segment(**{**one, "parts": tuple(map(tuple, one["parts"]))}) for one in plain["segments"]]
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [segment for segment in segments if sizes.get(segment.file) == segment.num_bytes]


def _usearch() -> ModuleType:
    try:
        return importlib.import_module("usearch.index")
    except ImportError as error:
        raise UsageError(
            f"An approximate index needs the package usearch ({error}); {install_extra('index')}."
        ) from error
