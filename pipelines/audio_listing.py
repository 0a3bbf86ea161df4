"""Finds the audio files below a folder, whatever their names and however the folder is linked together."""

import collections
import dataclasses
import os
import stat
from os import fsencode
from pathlib import Path

from clmr_tf.audio_decoders import NOT_AUDIO, UNREADABLE
from clmr_tf.audio_signatures import is_named_like_audio, read_head, starts_like_audio
from pipelines.sources import SkippedFile, printable

DUPLICATE = "duplicate"


@dataclasses.dataclass(frozen=True)
class Listing:
    """What lies below a folder.

    Attributes:
        audio: Paths relative to the folder, with "/", of everything that is named or begins like audio.
            Sorted by their bytes, so that no locale has a say.
        rejected: Everything else, in the same order.
    """

    audio: tuple[str, ...]
    rejected: tuple[SkippedFile, ...]


def list_audio(folder: Path, leave_out: Path | None = None) -> Listing:
    """Lists a folder and all folders below it.

    Links to files and folders are followed; a file or folder that can be reached in several ways counts once,
    under the name without links if there is one, so that links in a circle come to an end. Hidden files and
    folders are left out, as are named pipes and devices, which are never opened.

    Args:
        folder: Where to begin.
        leave_out: A folder that is passed over in silence, for a corpus that grows inside its own source.

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


class _Walk:
    """Real folders first, links to folders and files after them, all in the order of their bytes."""

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
