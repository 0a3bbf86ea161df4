"""Fetches a published file over HTTP: continues where a connection broke, and believes nothing but the checksum.

The bytes grow in `NAME.part` beside their place and get their name once their checksum is right. A start after an
interruption asks for the rest (`Range`, RFC 9110 section 14); a server that cannot do that sends the file again.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import http.client
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from clmr_tf.console import notes
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.files import put_in_place

_BLOCK_NUM_BYTES = 2**20
_SILENCE_LIMIT_SECONDS = 60.0
# Attempts in a row that bring no byte; one that brings some is followed by another as often as need be.
_NUM_FRUITLESS_ATTEMPTS = 5
_PAUSE_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A file that others publish.

    Attributes:
        name: Its place in the folder of the data.
        url: http or https.
        checksum: What its bytes must have, as "sha256:..." or, where nothing better was published, "sha1:...".
    """

    name: str
    url: str
    checksum: str


def fetch(remote: RemoteFile, folder: Path) -> Path:
    """Brings a file into `folder`, unless it is there with the right checksum already.

    Args:
        remote: What to fetch.
        folder: Where to; made if it does not exist.

    Returns:
        Its path.

    Raises:
        UsageError: If a file of that name with another content is there, or another process fetches it right now.
        ClmrError: If the server does not deliver, or delivers something else; what came so far is kept in the first
            case and removed in the second.
        OSError: If the disk is full; starting again goes on from there.
    """
    path = folder / remote.name
    if path.exists():
        if not has_checksum(path, remote.checksum):
            raise UsageError(f"{path} is not the file that was published ({remote.checksum}); move it away.")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with _claimed(part) as file:
        _receive(remote, file)
        file.flush()
        if not has_checksum(part, remote.checksum):
            part.unlink()
            raise ClmrError(
                f"{remote.url} delivers another file than was published ({remote.checksum}); it was removed."
            )
        put_in_place(part, path)
    return path


def has_checksum(path: Path, checksum: str) -> bool:
    """Whether the bytes of a file have a checksum such as "sha256:..."."""
    algorithm, _, expected = checksum.partition(":")
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest() == expected


@contextlib.contextmanager
def _claimed(part: Path) -> Iterator[BinaryIO]:
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"Another process is fetching {part} right now; wait until it is done.") from error
        yield file


def _receive(remote: RemoteFile, file: BinaryIO) -> None:
    """Appends to `file` until it is whole."""
    if urllib.parse.urlsplit(remote.url).scheme not in ("http", "https"):
        raise UsageError(f"{remote.url} is no address that files are fetched from; use http or https.")
    num_fruitless = 0
    with _shown_transfer(remote.name) as bar:
        while True:
            num_bytes_before = file.tell()
            try:
                if _receive_some(remote.url, file, bar):
                    return
                reason = "the connection broke"
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise ClmrError(f"{remote.url} cannot be fetched: the server answers {error.code}.") from error
                reason = f"the server answers {error.code}"
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            num_fruitless = 0 if file.tell() > num_bytes_before else num_fruitless + 1
            if num_fruitless == _NUM_FRUITLESS_ATTEMPTS:
                raise ClmrError(f"{remote.url} cannot be fetched: {reason}; start again to go on from here.")
            time.sleep(_PAUSE_SECONDS * num_fruitless)


def _receive_some(url: str, file: BinaryIO, bar: "_Transfer") -> bool:
    """One request for what is missing; whether the file is whole after it."""
    num_bytes = file.tell()
    headers = {"Range": f"bytes={num_bytes}-"} if num_bytes else {}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_SILENCE_LIMIT_SECONDS)
    except urllib.error.HTTPError as error:
        # Nothing lies behind the last byte: it is whole, or longer than what is published, as its checksum will tell.
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
    # A reader with a block size is not told that a connection broke: the last block is only shorter.
    file.flush()
    return whole_num_bytes is None or file.tell() >= whole_num_bytes


def _first_byte(response: http.client.HTTPResponse) -> int:
    """Where in the file the answer begins: 0 unless it is a part (status 206) that says another place."""
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
    if not notes.is_terminal:
        notes.print(f"Fetching {name} ...", markup=False)
        yield _Transfer(None, name)
        return
    columns = [TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn()]
    with Progress(*columns, console=notes) as bar:
        yield _Transfer(bar, name)
