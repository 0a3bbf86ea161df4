"""What this system has of the published list of recordings, and what differs from it.

The list, debian_games.csv, was made on Debian 12. Another release has other versions of the packages, one of them under
another name, and some not at all. An item keeps the id, song, split and labels that it has in the list.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from clmr_tf.audio_listing import SkippedFile
from pipelines.debian_games_tracks import Track
from pipelines.debian_package_lists import Package, find_packages, version_in_name
from pipelines.debian_packages import fetch_package, take_files

NO_PACKAGE, NOT_IN_PACKAGE = "no_package", "not_in_package"


@dataclasses.dataclass(frozen=True)
class FoundTracks:
    """The recordings of a list that are there, and how they differ from it.

    Attributes:
        files: The file of each track that is there, in the order of the list.
        packages: By the name in the list, those that this system has.
        skipped: The tracks that are not there, with the reason.
        changed: The tracks whose file has other bytes than in the list.
    """

    files: Mapping[Track, Path]
    packages: Mapping[str, Package]
    skipped: Sequence[SkippedFile]
    changed: Sequence[Track]

    def differences(self) -> str | None:
        """One sentence without its full stop on what differs from the published list; None if nothing does."""
        parts = [
            f"{package.name} {package.version} is taken for {name}"
            for name, package in self.packages.items()
            if package.name != name
        ]
        for reason, words in ((NO_PACKAGE, "there is no package"), (NOT_IN_PACKAGE, "recordings are not in")):
            absent = _counts(file.source.split("/")[0] for file in self.skipped if file.reason == reason)
            if absent:
                parts.append(f"{words} {absent}")
        if self.changed:
            parts.append(f"recordings are other files in {_counts(track.package for track in self.changed)}")
        if not parts:
            return None
        num_listed = len(self.files) + len(self.skipped)
        return f"{len(self.files)} of the {num_listed} recordings of the published list are there: {'; '.join(parts)}"


def find_tracks(tracks: Sequence[Track], cache: Path) -> FoundTracks:
    """Fetches what this system has of some tracks.

    Args:
        tracks: Of the list.
        cache: Folder that keeps the packages and their music.

    Raises:
        UsageError: If apt or dpkg-deb is missing, or apt can get none of the packages.
        ClmrError: If a package cannot be fetched or read.
    """
    packages = find_packages(list(dict.fromkeys(track.package for track in tracks)))
    places: dict[Track, Path] = {}
    for name, package in packages.items():
        paths = {track: _path_in(package, track) for track in tracks if track.package == name}
        folder = take_files(fetch_package(package, cache), list(paths.values()), cache)
        places.update((track, folder / path) for track, path in paths.items())
    files = {track: places[track] for track in tracks if track in places and places[track].is_file()}
    return FoundTracks(
        files=files,
        packages=packages,
        skipped=[_skipped(track, packages.get(track.package)) for track in tracks if track not in files],
        changed=[track for track, path in files.items() if _sha256(path) != track.sha256],
    )


def _path_in(package: Package, track: Track) -> str:
    # What has a version in its name usually has it in its paths, too.
    before, now = version_in_name(track.package), version_in_name(package.name)
    return track.path if before == now else track.path.replace(f"/{before}/", f"/{now}/")


def _skipped(track: Track, package: Package | None) -> SkippedFile:
    if package is None:
        return SkippedFile(track.item_id, NO_PACKAGE, f"this system has no package {track.package}")
    return SkippedFile(track.item_id, NOT_IN_PACKAGE, f"{package.name} {package.version} does not hold it")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _counts(packages: Iterable[str]) -> str:
    """How many recordings by package: "pushover-data (10), zaz-data (1)"."""
    return ", ".join(f"{name} ({count})" for name, count in collections.Counter(packages).items())
