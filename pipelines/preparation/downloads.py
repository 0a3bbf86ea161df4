"""Resumable downloads, and unpacking of archives within limits."""

import contextlib
import dataclasses
import hashlib
import http.client
import io
import os
import re
import shutil
import stat
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from clmr_tf.console import progress_bar, stderr
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.files import exclusive_lock, put_in_place, replaced_file

_BLOCK_NUM_BYTES = 2**20
_SILENCE_LIMIT_SECONDS = 60.0
# Number of attempts in a row that may receive nothing; attempts that receive something are not limited.
_NUM_FRUITLESS_ATTEMPTS = 5
_PAUSE_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A published file.

    Attributes:
        name: Its path in the folder of the data.
        url: http or https.
        checksum: Its checksum, "sha256:..." or, if nothing better was published, "sha1:...".
    """

    name: str
    url: str
    checksum: str


def fetch(remote: RemoteFile, folder: Path) -> Path:
    """Downloads a file into `folder`, unless it exists with the right checksum.

    Args:
        remote: The file.
        folder: Created if it does not exist.

    Returns:
        Its path.

    Raises:
        UsageError: If there is a different file of that name, or another process is downloading it.
        ClmrError: If the download fails (the received part is kept) or has the wrong checksum (it is deleted).
        OSError: If the disk is full; the next start continues from there.
    """
    path = folder / remote.name
    if path.exists():
        if not has_checksum(path, remote.checksum):
            raise UsageError(f"{path} is not the file that was published ({remote.checksum}); move it away.")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part, lock = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.lock")
    with exclusive_lock(lock, f"Another process is already fetching {part}; wait for it to finish."):
        # Another process may have finished it between the check above and the lock.
        if not path.exists():
            with part.open("ab") as file:
                _receive(remote, file)
            if not has_checksum(part, remote.checksum):
                part.unlink()
                lock.unlink()
                raise ClmrError(
                    f"{remote.url} is not the file that was published ({remote.checksum}); the download was deleted."
                )
            put_in_place(part, path)
        lock.unlink()
    return path


@contextlib.contextmanager
def done_once(marker: Path) -> Iterator[bool]:
    """Yields whether files must still be fetched and unpacked, which no other process does during the block.

    Args:
        marker: An empty file that exists once that is done, in the folder of the files.

    Raises:
        UsageError: If another process is doing it.
    """
    if marker.is_file():
        yield False
        return
    marker.parent.mkdir(parents=True, exist_ok=True)
    refusal = f"Another process is already downloading to {marker.parent}; wait for it to finish."
    with exclusive_lock(marker.with_name(f"{marker.name}.lock"), refusal):
        # Another process may have done it between the check above and the lock.
        yield not marker.is_file()
        marker.touch()


def has_checksum(path: Path, checksum: str) -> bool:
    """Whether the bytes of a file have a checksum such as "sha256:..."."""
    algorithm, _, expected = checksum.partition(":")
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest() == expected


def _receive(remote: RemoteFile, file: BinaryIO) -> None:
    """Appends to `file` until it is complete."""
    if urllib.parse.urlsplit(remote.url).scheme not in ("http", "https"):
        raise UsageError(f"{remote.url} cannot be fetched; use http or https.")
    num_fruitless = 0
    with _shown_transfer(remote.name) as bar:
        while True:
            num_bytes_before = file.tell()
            try:
                if _receive_some(remote.url, file, bar):
                    return
                reason = "the connection was lost"
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise ClmrError(f"{remote.url} cannot be fetched: the server returned {error.code}.") from error
                reason = f"the server returned {error.code}"
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            num_fruitless = 0 if file.tell() > num_bytes_before else num_fruitless + 1
            if num_fruitless == _NUM_FRUITLESS_ATTEMPTS:
                raise ClmrError(f"{remote.url} cannot be fetched: {reason}; start again to continue from here.")
            time.sleep(_PAUSE_SECONDS * num_fruitless)


def _receive_some(url: str, file: BinaryIO, bar: "_Transfer") -> bool:
    """One request for the missing part; whether the file is complete after it."""
    num_bytes = file.tell()
    headers = {"Range": f"bytes={num_bytes}-"} if num_bytes else {}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_SILENCE_LIMIT_SECONDS)
    except urllib.error.HTTPError as error:
        # There is nothing after the last byte: the file is complete, or too long, which its checksum will show.
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and num_bytes:
            return True
        raise
    with response:
        if num_bytes and _first_byte(response) != num_bytes:
            file.truncate(0)
            num_bytes = 0
        length = response.headers.get("Content-Length")
        whole_num_bytes = num_bytes + int(length) if length is not None else None
        bar.begin(num_bytes, whole_num_bytes)
        while block := response.read(_BLOCK_NUM_BYTES):
            file.write(block)
            bar.advance(len(block))
    # If the connection is lost, reading in blocks gives no error, only a shorter last block.
    file.flush()
    return whole_num_bytes is None or file.tell() >= whole_num_bytes


def _first_byte(response: http.client.HTTPResponse) -> int:
    """The position of the response's first byte in the file: 0 unless it is a partial response (status 206)."""
    described = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(described[1]) if response.status == http.HTTPStatus.PARTIAL_CONTENT and described else 0


class _Transfer:
    def __init__(self, bar: Progress | None, name: str) -> None:
        self._bar = bar
        self._task = None if bar is None else bar.add_task(f"Fetching {name}", total=None)

    def begin(self, num_bytes: int, whole_num_bytes: int | None) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=num_bytes, total=whole_num_bytes)

    def advance(self, num_bytes: int) -> None:
        if self._bar is not None:
            self._bar.advance(self._task, num_bytes)


@contextlib.contextmanager
def _shown_transfer(name: str) -> Iterator[_Transfer]:
    if not stderr.is_terminal:
        stderr.print(f"Fetching {name} ...", markup=False)
        yield _Transfer(None, name)
        return
    with progress_bar(DownloadColumn(), TransferSpeedColumn()) as bar:
        yield _Transfer(bar, name)


@dataclasses.dataclass(frozen=True)
class UnpackingLimits:
    """The most that an archive may contain, so that a small file cannot fill the disk."""

    num_bytes: int
    num_files: int = 1_000_000


@dataclasses.dataclass(frozen=True)
class _Member:
    """One file of an archive: its name, its size in the header, an objection to its type or None, and its content."""

    name: str
    num_bytes: int
    objection: str | None
    open: Callable[[], IO[bytes]]


def unpack_zip(archive: Path | BinaryIO, destination: Path, limits: UnpackingLimits) -> None:
    """Unpacks a zip archive; existing files are replaced.

    Args:
        archive: Its path, or an open file that can seek.
        destination: Folder; created if it does not exist.
        limits: The most that it may contain.

    Raises:
        UsageError: If the archive is damaged, or, before anything is written, if it contains something forbidden.
    """
    name = getattr(archive, "name", "the archive") if not isinstance(archive, Path) else archive
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [_zip_member(opened, entry) for entry in opened.infolist() if not entry.is_dir()]
            _unpack(members, destination, limits, name)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise UsageError(f"{name} is not a valid zip archive ({error}); fetch it again.") from error


class JoinedFiles(io.RawIOBase):
    """Several files read as one, in the given order."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [path.open("rb") for path in paths]
        self._ends: list[int] = []
        for file in self._files:
            self._ends.append((self._ends[-1] if self._ends else 0) + os.fstat(file.fileno()).st_size)
        self._position = 0
        self.name = " + ".join(str(path) for path in paths)

    def readable(self) -> bool:
        """Always true."""
        return True

    def seekable(self) -> bool:
        """Always true."""
        return True

    def tell(self) -> int:
        """Position in the joined file, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a position in the joined file; see `io.IOBase.seek`."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._ends[-1]}[whence]
        if base + offset < 0:
            raise ValueError(f"position {base + offset} lies before the first byte")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        """Reads up to the end of the current file; 0 at the end of the last one."""
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
    # The name as it is in the archive: `filename` is cut at a zero byte and has other separators replaced.
    return _Member(entry.orig_filename, entry.file_size, objection, lambda: archive.open(entry))


def _unpack(members: Sequence[_Member], destination: Path, limits: UnpackingLimits, archive: object) -> None:
    for member in members:
        objection = member.objection or _objection_to_name(member.name)
        if objection is not None:
            raise UsageError(f"{archive} is not unpacked, because {member.name!r} in it {objection}.")
    num_bytes = sum(member.num_bytes for member in members)
    if num_bytes > limits.num_bytes or len(members) > limits.num_files:
        raise UsageError(
            f"{archive} is not unpacked, because its {len(members)} files of {num_bytes} bytes are more than the "
            f"{limits.num_files} files of {limits.num_bytes} bytes that it may contain."
        )
    destination.mkdir(parents=True, exist_ok=True)
    root = destination.resolve()
    for member in members:
        path = root / PurePosixPath(member.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        # The folder may already contain a link.
        if not path.parent.resolve().is_relative_to(root):
            raise UsageError(f"{path.parent} is a link out of {destination}; remove it.")
        _write(member, path, archive)


def _objection_to_name(name: str) -> str | None:
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0]:
        return "would be written outside the folder"
    if not name or "\0" in name or parts[-1] in ("", "."):
        return "has a name that no file can have"
    return None


def _write(member: _Member, path: Path, archive: object) -> None:
    with member.open() as source, replaced_file(path) as target:
        # The limits were checked with the sizes in the headers, so no member may be larger than its header says.
        remaining = member.num_bytes
        while block := source.read(min(_BLOCK_NUM_BYTES, remaining + 1)):
            remaining -= len(block)
            if remaining < 0:
                raise UsageError(f"{archive} is not a valid archive ({member.name!r} is larger than its header says).")
            target.write(block)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
