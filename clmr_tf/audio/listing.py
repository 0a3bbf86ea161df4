"""Finds audio files by name and content, in folders with any links."""

import collections
import dataclasses
import json
import logging
import os
import stat
from collections.abc import Iterable, Sequence
from os import fsencode
from pathlib import Path, PurePath

from clmr_tf.audio.decoding import NOT_AUDIO, UNREADABLE, is_named_like_audio, read_head, starts_like_audio
from clmr_tf.console import printable
from clmr_tf.errors import UsageError

DUPLICATE = "duplicate"

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that was left out.

    Attributes:
        source: Its path; names that are not UTF-8 as `os.fsdecode` gives them.
        reason: A code that the summary counts: "unreadable", "too_short", "silent", "not_audio",
            "duplicate", "timed_out", "crashed", "missing", or a code of the direct reader's check.
        detail: The reason as text.
    """

    source: str
    reason: str
    detail: str

    def to_json(self) -> str:
        """One line of skipped.jsonl, without the line end."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files below a folder.

    Attributes:
        audio: Paths relative to the folder, with "/", of files whose name or first bytes are those of audio.
            Sorted by their bytes, which is independent of the locale.
        rejected: All other files, in the same order.
    """

    audio: tuple[str, ...]
    rejected: tuple[SkippedFile, ...]


def list_audio(folder: Path, leave_out: Path | None = None) -> Listing:
    """Lists a folder and all folders below it.

    Links are followed. A file or folder with several paths counts once, under a path without links if there is one, so
    circular links end. Hidden files and folders, named pipes and devices are left out; pipes and devices are never
    opened.

    Args:
        folder: The folder.
        leave_out: A folder to ignore, for a corpus inside its own source folder.

    Raises:
        OSError: If `folder` itself cannot be listed.
    """
    with os.scandir(folder):
        pass
    walk = _Walk(folder, leave_out)
    walk.run()
    return Listing(
        tuple(sorted(walk.audio, key=fsencode)),
        tuple(sorted(walk.rejected, key=lambda file: fsencode(file.source))),
    )


def counted_extensions(files: Iterable[SkippedFile]) -> str:
    """How many files have each extension, the most frequent first: "12 .jpg, 3 .txt, 1 without extension"."""
    counts = collections.Counter(PurePath(file.source).suffix.lower() or "without extension" for file in files)
    by_frequency = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return ", ".join(f"{count} {printable(extension)}" for extension, count in by_frequency)


def find_audio(paths: Sequence[Path]) -> tuple[list[Path], list[SkippedFile]]:
    """The given files, and the audio files in the given folders as `list_audio` finds them.

    Returns:
        Absolute paths, each file once even if it has several; and the files and folders that could not be read. Other
        files in a folder are in neither list; one warning counts them.

    Raises:
        UsageError: If nothing is found.
    """
    found: dict[tuple[int, int], Path] = {}
    skipped, no_audio = [], []
    # Does not follow links, so a song keeps the path that was given.
    for path in (path.expanduser().absolute() for path in paths):
        try:
            listing = list_audio(path) if path.is_dir() else Listing((".",), ())
        except OSError as error:
            listing = Listing((), (SkippedFile("", UNREADABLE, f"the folder cannot be listed: {error.strerror}"),))
        skipped += [
            dataclasses.replace(one, source=str(path / one.source))
            for one in listing.rejected
            if one.reason == UNREADABLE
        ]
        no_audio += [one for one in listing.rejected if one.reason == NOT_AUDIO]
        for name in listing.audio:
            try:
                status = (path / name).stat()
                reason = None if stat.S_ISREG(status.st_mode) else "it is not a regular file"
            except OSError as error:
                reason = error.strerror
            if reason:
                skipped.append(SkippedFile(str(path / name), UNREADABLE, reason))
            else:
                found.setdefault((status.st_dev, status.st_ino), path / name)
    if not found:
        why = "".join(f" ({printable(one.source)}: {one.detail})" for one in skipped[:1])
        names = ", ".join(printable(str(path)) for path in paths)
        raise UsageError(f"There is no audio file in {names}{why}; give audio files, or folders that contain some.")
    if no_audio:
        _LOG.warning("Left out files that are not audio: %s.", counted_extensions(no_audio))
    return list(found.values()), skipped


class _Walk:
    """Visits real folders first and links after them, each in the order of their bytes."""

    def __init__(self, folder: Path, leave_out: Path | None) -> None:
        self._folder = folder
        self._first_name: dict[tuple[int, int], str] = {}
        self._folders = collections.deque([""])
        self._links: collections.deque[str] = collections.deque()
        self.audio: list[str] = []
        self.rejected: list[SkippedFile] = []
        if leave_out is not None and leave_out.is_dir():
            self._is_new(leave_out.stat(), "")

    def run(self) -> None:
        while self._folders or self._links:
            if self._folders:
                self._enter(self._folders.popleft())
            else:
                self._follow(self._links.popleft())

    def _enter(self, folder: str) -> None:
        try:
            if not self._is_new((self._folder / folder).stat(), folder):
                return
            with os.scandir(self._folder / folder) as scan:
                entries = sorted(scan, key=lambda entry: fsencode(entry.name))
        except OSError as error:
            self._reject(folder, UNREADABLE, f"the folder cannot be listed: {error.strerror}")
            return
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith("."):
                self._reject(name, NOT_AUDIO, "it is hidden")
            elif entry.is_symlink():
                self._links.append(name)
            elif entry.is_dir(follow_symlinks=False):
                self._folders.append(name)
            else:
                self._take(name)

    def _follow(self, link: str) -> None:
        if (self._folder / link).is_dir():
            self._folders.append(link)
        else:
            self._take(link)

    def _take(self, name: str) -> None:
        path = self._folder / name
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                self._reject(name, NOT_AUDIO, "it is not a regular file")
            elif not is_named_like_audio(name) and not starts_like_audio(read_head(path)):
                self._reject(name, NOT_AUDIO, "neither its name nor its content is that of an audio file")
            elif self._is_new(status, name):
                self.audio.append(name)
            else:
                first = printable(self._first_name[status.st_dev, status.st_ino])
                self._reject(name, DUPLICATE, f"it is the same file as {first}")
        except OSError as error:
            self._reject(name, UNREADABLE, error.strerror or str(error))

    def _reject(self, name: str, reason: str, detail: str) -> None:
        self.rejected.append(SkippedFile(name, reason, detail))

    def _is_new(self, status: os.stat_result, name: str) -> bool:
        return self._first_name.setdefault((status.st_dev, status.st_ino), name) == name
