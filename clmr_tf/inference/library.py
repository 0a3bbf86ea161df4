"""All songs of a table of embeddings in memory, and the windows of one song at a time."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from clmr_tf.console import printable
from clmr_tf.errors import UsageError
from clmr_tf.files import UnreadableArraysError, read_arrays
from clmr_tf.inference.similarity import normalized
from clmr_tf.inference.tables import SongTable, read_manifest, read_songs, read_windows


def names_of(path: str) -> tuple[str, ...]:
    """The names that a table may have of a file."""
    found = os.path.expanduser(path)  # noqa: PTH111 - Path.expanduser raises for an unknown user's "~"
    # Links are resolved, as `embed` lists a file by a path without them.
    return tuple(printable(name) for name in (path, str(Path(found).absolute()), str(Path(found).resolve())))


class Library:
    """The songs of a table.

    Args:
        table: An .npz file, or the folder of a table.

    Attributes:
        table: The table.
        model_hash: SHA-256 of the weights of its model.
        window_seconds: Length of a window.
        paths: The files, sorted.
        means: Mean embedding of the windows of each song, float32 [songs, 512].
        durations_seconds: Length of each song, float64 [songs].
        units: Their unit vectors, float32 [songs, 512].
        is_silent: Whether a song is silent, so that its embedding is meaningless, bool [songs].
        lost_seconds: What of each song could not be decoded, float64 [songs].
        skipped: Path and reason of each file that could not be embedded.

    Raises:
        UsageError: If it is not a complete table of embeddings, or is damaged.
    """

    def __init__(self, table: Path) -> None:
        # Checks everything that is read here.
        songs = SongTable(table)
        # With a name, also if it is ".".
        self.table, self.model_hash = table.absolute(), songs.model_hash
        self._read_windows: Callable[[int], tuple[np.ndarray, np.ndarray]]
        if songs.parts:
            self._read_folder()
        elif songs.num_songs:
            self._read_npz()
        else:
            raise UsageError(f"{table} has no songs; embed some music first.")
        self.units = normalized(self.means)
        self._row_of = {path: row for row, path in enumerate(self.paths)}

    def _read_folder(self) -> None:
        manifest = read_manifest(self.table)
        settings = manifest.settings
        columns: dict[str, list] = {}
        means, places = [], []
        for part in manifest.parts:
            content = read_songs(self.table, settings, part.name)
            means.append(content.pop("embedding"))
            first_row = 0
            for num_windows in content["num_windows"]:
                places.append((part.name, first_row, num_windows))
                first_row += num_windows
            for name, values in content.items():
                columns.setdefault(name, []).extend(values)
        self.window_seconds = settings.window_num_samples / settings.sample_rate_hz
        self.paths: Sequence[str] = columns["path"]
        self.means = np.concatenate(means)
        self.durations_seconds = np.array(columns["duration_seconds"])
        self.is_silent = np.array(columns["is_silent"])
        self.lost_seconds = np.array(columns["lost_seconds"])
        self._num_bytes, self._modified_ns = columns["num_bytes"], columns["modified_ns"]
        self.skipped = [(printable(one.source), one.detail) for part in manifest.parts for one in part.skipped]
        self._read_windows = lambda row: read_windows(self.table, settings, *places[row])

    def _read_npz(self) -> None:
        names = ("vectors", "times_seconds", "file_index", "paths", "means", "durations_seconds", "is_silent")
        names += ("lost_seconds", "num_bytes", "modified_ns", "skipped_paths", "skipped_reasons", "metadata")
        try:
            arrays = read_arrays(self.table, *names)
        except UnreadableArraysError as error:
            raise UsageError(f"{self.table} is damaged ({error}); embed the files again.") from error
        settings = json.loads(str(arrays["metadata"]))
        ends = np.cumsum(np.bincount(arrays["file_index"], minlength=len(arrays["paths"])))
        self.window_seconds = settings["window_num_samples"] / settings["sample_rate_hz"]
        self.paths = arrays["paths"].tolist()
        self.means = arrays["means"]
        self.durations_seconds, self.is_silent = arrays["durations_seconds"], arrays["is_silent"]
        self.lost_seconds = arrays["lost_seconds"]
        self._num_bytes, self._modified_ns = arrays["num_bytes"].tolist(), arrays["modified_ns"].tolist()
        self.skipped = list(zip(arrays["skipped_paths"].tolist(), arrays["skipped_reasons"].tolist(), strict=True))

        def windows(row: int) -> tuple[np.ndarray, np.ndarray]:
            own = slice(ends[row - 1] if row else 0, ends[row])
            return arrays["times_seconds"][own], arrays["vectors"][own]

        self._read_windows = windows

    def find(self, path: str) -> int | None:
        """The row of a song, by its path as in the table or any other path of the file; None if there is none."""
        return next((self._row_of[name] for name in names_of(path) if name in self._row_of), None)

    def row_of(self, path: str) -> int:
        """As `find`, but raises UsageError if the song is not in the table."""
        row = self.find(path)
        if row is None:
            raise UsageError(f"{path} is not in {self.table}; give a song of the table, or embed it first.")
        return row

    def is_unchanged(self, row: int, found: os.stat_result) -> bool:
        """Whether a file has the size and time of a song when it was embedded."""
        return (found.st_size, found.st_mtime_ns) == (self._num_bytes[row], self._modified_ns[row])

    def windows_of(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """The windows of a song: start of each in seconds, float64 [n], and embeddings, float32 [n, 512].

        Raises:
            UsageError: If the table is damaged.
        """
        return self._read_windows(row)

    def moment_of(self, row: int, seconds: float) -> np.ndarray:
        """Embedding of the window whose middle is nearest to a moment of a song, float32 [512]."""
        times_seconds, vectors = self.windows_of(row)
        return vectors[np.argmin(np.abs(times_seconds + self.window_seconds / 2 - seconds))]
