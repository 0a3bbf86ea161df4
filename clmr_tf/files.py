"""Atomic writes, locks, hashes, and reading arrays from files that may be damaged."""

import contextlib
import errno
import hashlib
import logging
import os
import secrets
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from clmr_tf.errors import UsageError, is_disk_full

_LOG = logging.getLogger(__name__)
_PATTERN_CHARACTERS = frozenset("*?[]\\")
# What NumPy, zipfile and zlib raise for damaged bytes; TypeError for an array that is not in an archive.
_OF_DAMAGED_ARRAYS = (
    *(ValueError, KeyError, EOFError, MemoryError, TypeError),
    *(RuntimeError, zipfile.BadZipFile, zlib.error),
)


def refuse_pattern(folder: Path) -> None:
    """Raises UsageError if TensorFlow would interpret the path of a folder as a pattern and find nothing."""
    found = _PATTERN_CHARACTERS.intersection(str(folder.absolute()))
    if found:
        raise UsageError(
            f"TensorFlow cannot load from {folder.absolute()}, since it interprets {' '.join(sorted(found))} as a "
            "pattern; choose a folder without it."
        )


def require_writable(path: Path, option: str) -> None:
    """Raises UsageError if a file cannot be written; call it before computing anything for the file.

    Args:
        path: The file.
        option: The option that named it, such as "--out".
    """
    if not path.parent.is_dir() or path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path} cannot be written; give {option} a file in an existing folder.")


@contextlib.contextmanager
def writable_or_usage_error(folder: Path, advice: str) -> Iterator[None]:
    """Turns an OSError of the block into a UsageError, unless the disk is full.

    Args:
        folder: The folder that the block creates.
        advice: The end of the message, such as "choose another --out".
    """
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UsageError(f"{folder} cannot be written ({error.strerror}); {advice}.") from error


@contextlib.contextmanager
def exclusive_lock(path: Path, refusal: str, *, timeout_seconds: float = 0.0) -> Iterator[None]:
    """Holds a lock during the block. The system releases it when the process ends, even after `kill -9`.

    Args:
        path: The lock file, which is not removed; its folder must exist.
        refusal: Message if another process holds the lock.
        timeout_seconds: How long to wait for it.

    Raises:
        UsageError: If another process holds the lock, also after this time.
        OSError: If the lock file cannot be created.
    """
    # Imported late, because many commands lock nothing.
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            if not timeout_seconds:
                raise
            _LOG.warning("Another process holds %s; waiting for it for up to %.0f seconds.", path, timeout_seconds)
            held = lock.acquire(timeout=timeout_seconds)
    except Timeout as error:
        raise UsageError(refusal) from error
    with held:
        yield


class UnreadableArraysError(ValueError):
    """A file of arrays cannot be used; the message is only the reason, and the caller adds the file and what to do."""


def read_arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Arrays of an .npz file by name, of any shape and type; nothing is unpickled.

    Args:
        path: The file.
        names: The arrays to read; all if there are none.

    Raises:
        UnreadableArraysError: If the file is missing or damaged, is not an .npz file, or an array is missing.
    """
    try:
        # The file is opened here, since NumPy does not close a file that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in names or archive if name in archive}
    except OSError as error:
        raise UnreadableArraysError(error.strerror or str(error)) from error
    except _OF_DAMAGED_ARRAYS as error:
        raise UnreadableArraysError("it is damaged, or not an .npz file") from error
    missing = [name for name in names if name not in arrays]
    if missing:
        raise UnreadableArraysError(f"it has no array `{missing[0]}`")
    return arrays


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Waits until the content of a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot sync folders; they store names at once.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(handle)


def put_in_place(draft: Path, path: Path, previous: Path | None = None) -> None:
    """Renames a finished file or folder; after a power cut, `path` is complete or does not exist.

    The steps are: fsync everything in the draft, rename it, fsync the parent folder.

    Args:
        draft: The finished file or folder, on the same file system.
        path: The final name. A file of that name is replaced.
        previous: Where an existing folder at `path` is moved first, since only an empty one could be replaced.

    Raises:
        OSError: If it cannot be written or renamed.
    """
    _sync_tree(draft)
    if previous is not None and path.exists():
        path.rename(previous)
    draft.rename(path)
    sync(path.parent)


@contextlib.contextmanager
def replaced_file(path: Path, *, draft_folder: Path | None = None) -> Iterator[BinaryIO]:
    """Yields a new file, which replaces the one at `path` in one step when the block ends without an error.

    The parent folder must exist. The umask decides who may read the file.

    Args:
        path: The file to replace.
        draft_folder: Where the new file is written, on the same file system; where `path` is if None. A kill leaves
            the draft there.
    """
    # A shortened name, since a file name has at most 255 bytes.
    draft = (draft_folder or path.parent) / f".{path.name[:60]}.{secrets.token_hex(4)}"
    try:
        with draft.open("xb") as file:
            yield file
        put_in_place(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes, *, draft_folder: Path | None = None) -> None:
    """Replaces the file at `path` in one step, see `replaced_file`; text is encoded as UTF-8."""
    with replaced_file(path, draft_folder=draft_folder) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


def _sync_tree(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for inside in path.iterdir():
            _sync_tree(inside)
    sync(path)
