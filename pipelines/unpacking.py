"""Unpacks zip and tar archives that others made, into one folder and nowhere else.

An archive is looked through before anything of it is written: a name that leaves the folder, a link, a device, or more
than it may hold, and nothing is unpacked. Files grow under a hidden name and come to their place one by one, so that a
kill leaves no half file; a second start unpacks again.
"""

import dataclasses
import io
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from clmr_tf.errors import UsageError
from clmr_tf.files import sync

_BLOCK_NUM_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class UnpackingLimits:
    """What an archive may hold at most, so that a small file cannot fill the disk."""

    num_bytes: int
    num_files: int = 1_000_000


@dataclasses.dataclass(frozen=True)
class _Member:
    """One file of an archive: its name in it, its size as announced, what is wrong with its kind, and its content."""

    name: str
    num_bytes: int
    objection: str | None
    open: Callable[[], BinaryIO]


def unpack_zip(archive: Path | BinaryIO, destination: Path, limits: UnpackingLimits) -> None:
    """Unpacks a zip archive; files that are there already are replaced.

    Args:
        archive: Its path, or its bytes in a file that can seek.
        destination: Folder; made if it does not exist.
        limits: What it may hold.

    Raises:
        UsageError: If it is no sound archive, or holds something that it must not; in the latter case before
            anything is written.
    """
    name = getattr(archive, "name", "the archive") if not isinstance(archive, Path) else archive
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [_zip_member(opened, entry) for entry in opened.infolist() if not entry.is_dir()]
            _unpack(members, destination, limits, name)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise UsageError(f"{name} is no sound zip archive ({error}); fetch it again.") from error


def unpack_tar(archive: Path, destination: Path, limits: UnpackingLimits) -> None:
    """The same for a tar archive, compressed or not."""
    try:
        with tarfile.open(archive) as opened:
            members = [_tar_member(opened, entry) for entry in opened if not entry.isdir()]
            _unpack(members, destination, limits, archive)
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise UsageError(f"{archive} is no sound tar archive ({error}); fetch it again.") from error


class JoinedFiles(io.RawIOBase):
    """Several files one after the other as one that can be read and sought in, as `cat` would write it."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [path.open("rb") for path in paths]
        self._ends: list[int] = []
        for file in self._files:
            self._ends.append((self._ends[-1] if self._ends else 0) + os.fstat(file.fileno()).st_size)
        self._position = 0
        self.name = " + ".join(str(path) for path in paths)

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Position in the whole, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes to a position in the whole, as every file does."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._ends[-1]}[whence]
        if base + offset < 0:
            raise ValueError(f"position {base + offset} lies before the first byte")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        """Reads up to the end of the file at hand; 0 at the end of the last one."""
        for file, end in zip(self._files, self._ends, strict=True):
            if self._position < end:
                file.seek(self._position - end, io.SEEK_END)
                num_bytes = file.readinto(buffer)
                self._position += num_bytes
                return num_bytes
        return 0

    def close(self) -> None:
        """Closes all of them."""
        for file in self._files:
            file.close()
        super().close()


def _zip_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> _Member:
    mode = entry.external_attr >> 16
    is_odd = mode != 0 and stat.S_IFMT(mode) not in (0, stat.S_IFREG)
    objection = "is a link or a device" if is_odd else None
    # The name as it stands in the archive: zipfile cuts it at a zero byte and turns other separators round.
    return _Member(entry.orig_filename, entry.file_size, objection, lambda: archive.open(entry))


def _tar_member(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> _Member:
    objection = None if entry.isreg() else "is a link or a device"
    return _Member(entry.name, entry.size, objection, lambda: archive.extractfile(entry))


def _unpack(members: Sequence[_Member], destination: Path, limits: UnpackingLimits, archive: object) -> None:
    for member in members:
        objection = member.objection or _objection_to_name(member.name)
        if objection is not None:
            raise UsageError(f"{archive} is not unpacked, since {member.name!r} in it {objection}.")
    num_bytes = sum(member.num_bytes for member in members)
    if num_bytes > limits.num_bytes or len(members) > limits.num_files:
        raise UsageError(
            f"{archive} is not unpacked, since its {len(members)} files of {num_bytes} bytes are more than the "
            f"{limits.num_files} files of {limits.num_bytes} bytes that it may hold."
        )
    destination.mkdir(parents=True, exist_ok=True)
    root = destination.resolve()
    folders = {root}
    for member in members:
        path = root / PurePosixPath(member.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Somebody may have put a link into the folder before.
        if not path.parent.resolve().is_relative_to(root):
            raise UsageError(f"{path.parent} leads out of {destination} by a link; remove that link.")
        _write(member, path, archive)
        folders.add(path.parent)
    # Once for all of their files, of which there may be thousands.
    for folder in folders:
        sync(folder)


def _objection_to_name(name: str) -> str | None:
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0]:
        return "would be written outside of the folder"
    if not name or "\0" in name or parts[-1] in ("", "."):
        return "has a name that no file can have"
    return None


def _write(member: _Member, path: Path, archive: object) -> None:
    growing = path.with_name(f".{path.name}.unpacking"[-255:])
    try:
        with member.open() as source, growing.open("wb") as target:
            # Announced sizes were added up above; what is more than announced is not to be believed.
            remaining = member.num_bytes
            while block := source.read(min(_BLOCK_NUM_BYTES, remaining + 1)):
                remaining -= len(block)
                if remaining < 0:
                    raise UsageError(f"{archive} is no sound archive ({member.name!r} is larger than announced).")
                target.write(block)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        sync(growing)
        growing.replace(path)
    finally:
        growing.unlink(missing_ok=True)
