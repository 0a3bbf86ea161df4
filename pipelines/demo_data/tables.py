"""The two tables of the demo corpus: the selected tracks (written by hand) and the excerpts (written by the build).

`selection.csv` names each source track, its package, its licence and the place where the licence is stated.
`tracks.csv` adds the results of the build: file, split, position and digest of the excerpt.
"""

import csv
import dataclasses
import io
import re
import unicodedata
from pathlib import Path
from typing import TypeVar

from clmr_tf.errors import UsageError

FOLDER = Path(__file__).parent
SELECTION_FILE = "selection.csv"
TRACKS_FILE = "tracks.csv"
AUDIO_FOLDER = "audio"

_Row = TypeVar("_Row")

# The licences that an excerpt in this repository may have, by their SPDX names.
LICENCE_URLS = {
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC-BY-SA-3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
    "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "MIT": "https://opensource.org/license/mit",
}


@dataclasses.dataclass(frozen=True)
class SelectedTrack:
    """One row of selection.csv.

    Attributes:
        class_name: The label: artist where known, else soundtrack. Column "class".
        song_id: Tracks that may be variants of one theme share it; a split never separates them.
        title: Title of the track.
        author: Author, as far as the package says.
        package: Debian package that contains the track.
        package_version: Version of that package.
        source_path: Path inside the package; "archive!/member" for a member of a zip archive.
        source_sha256: SHA-256 of the source file.
        licence: A key of `LICENCE_URLS`.
        licence_note: Where and how the package states the licence.
    """

    class_name: str
    song_id: str
    title: str
    author: str
    package: str
    package_version: str
    source_path: str
    source_sha256: str
    licence: str
    licence_note: str

    @property
    def file(self) -> str:
        """Where the excerpt is stored, relative to the folder of the demo corpus."""
        return f"{AUDIO_FOLDER}/{self.class_name}/{slug_of(self.title)}.ogg"


@dataclasses.dataclass(frozen=True)
class Track:
    """One row of tracks.csv.

    Attributes:
        file: The excerpt, relative to the folder of the demo corpus.
        class_name: As in `SelectedTrack`, like all fields that are not listed here.
        split: "train", "valid" or "test".
        start_seconds: Where the excerpt begins in the source track.
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


def slug_of(title: str) -> str:
    """A file name for a title: lower-case ASCII letters, digits and hyphens."""
    ascii_title = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    return re.sub("[^a-z0-9]+", "-", ascii_title.lower().replace("'", "")).strip("-")


def read_selection(folder: Path = FOLDER) -> tuple[SelectedTrack, ...]:
    """Reads selection.csv.

    Raises:
        UsageError: If a column is missing or unknown, a licence is not allowed, or two tracks would
            become the same file.
    """
    path = folder / SELECTION_FILE
    tracks = _read(path, SelectedTrack)
    files = set()
    for track in tracks:
        if track.licence not in LICENCE_URLS:
            raise UsageError(
                f"{path}: {track.source_path} has licence {track.licence!r}; "
                f"only {', '.join(LICENCE_URLS)} may be in the demo corpus."
            )
        if track.file in files:
            raise UsageError(f"{path}: two tracks would become {track.file}; give one of them a different title.")
        files.add(track.file)
    return tracks


def read_tracks(folder: Path = FOLDER) -> tuple[Track, ...]:
    """Reads tracks.csv; raises UsageError if it is missing or damaged."""
    path = folder / TRACKS_FILE
    tracks = _read(path, Track)
    try:
        return tuple(dataclasses.replace(track, start_seconds=int(track.start_seconds)) for track in tracks)
    except ValueError as error:
        raise UsageError(f"{path} has a start_seconds that is not a number ({error}); restore it.") from error


def tracks_csv(tracks: tuple[Track, ...]) -> str:
    """The text of tracks.csv."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_columns_of(Track))
    writer.writerows(dataclasses.astuple(track) for track in tracks)
    return text.getvalue()


def _columns_of(row_type: type) -> list[str]:
    # "class" is a keyword of Python, so the field cannot have the name of its column.
    names = [field.name for field in dataclasses.fields(row_type)]
    return ["class" if name == "class_name" else name for name in names]


def _read(path: Path, row_type: type[_Row]) -> tuple[_Row, ...]:
    expected = _columns_of(row_type)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing; restore it from the repository.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text; restore it from the repository.") from error
    if not rows or rows[0] != expected or any(len(row) != len(expected) for row in rows):
        raise UsageError(f"{path} does not have exactly the columns {','.join(expected)}; restore it.")
    return tuple(row_type(*row) for row in rows[1:])
