"""The table of the demo corpus, tracks.csv: its excerpts, where each comes from and under which licence."""

import csv
import dataclasses
from pathlib import Path

from clmr_tf.errors import UsageError

FOLDER = Path(__file__).parent
TRACKS_FILE = "tracks.csv"


@dataclasses.dataclass(frozen=True)
class Track:
    """One row of tracks.csv.

    Attributes:
        file: The excerpt, relative to the folder of the demo corpus.
        class_name: The label: artist where known, else soundtrack. Column "class".
        split: "train", "valid" or "test".
        song_id: Tracks that may be variants of one theme share it; a split never separates them.
        title: Title of the track.
        author: Author, as far as the package says.
        package: Debian package that contains the track.
        package_version: Version of that package.
        source_path: Path inside the package; "archive!/member" for a member of a zip archive.
        source_sha256: SHA-256 of the source file.
        start_seconds: Where the excerpt begins in the source track.
        licence: SPDX name of its licence.
        licence_note: Where and how the package states the licence.
        excerpt_sha256: SHA-256 of the excerpt's file.
    """

    file: str
    class_name: str
    split: str
    song_id: str
    title: str
    author: str
    package: str
    package_version: str
    source_path: str
    source_sha256: str
    start_seconds: int
    licence: str
    licence_note: str
    excerpt_sha256: str


def read_tracks(folder: Path = FOLDER) -> tuple[Track, ...]:
    """Reads tracks.csv; raises UsageError if it is missing or damaged."""
    path = folder / TRACKS_FILE
    # "class" is a keyword of Python, so the field cannot have the name of its column.
    names = [field.name for field in dataclasses.fields(Track)]
    expected = ["class" if name == "class_name" else name for name in names]
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing; restore it from the repository.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text; restore it from the repository.") from error
    if not rows or rows[0] != expected or any(len(row) != len(expected) for row in rows):
        raise UsageError(f"{path} does not have exactly the columns {','.join(expected)}; restore it.")
    try:
        tracks = (dict(zip(names, row, strict=True)) for row in rows[1:])
        return tuple(Track(**{**track, "start_seconds": int(track["start_seconds"])}) for track in tracks)
    except ValueError as error:
        raise UsageError(f"{path} has a start_seconds that is not a number ({error}); restore it.") from error
