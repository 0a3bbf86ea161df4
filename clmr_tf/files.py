"""Files that other programs rely on: written whole or not at all, where they can be found again."""

import contextlib
import errno
import os
import secrets
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from clmr_tf.errors import UsageError

_PATTERN_CHARACTERS = frozenset("*?[]\\")
# What NumPy, zipfile and zlib raise for damaged bytes; TypeError for an array that is in no archive.
_OF_DAMAGED_ARRAYS = (
    *(ValueError, KeyError, EOFError, MemoryError, TypeError),
    *(RuntimeError, zipfile.BadZipFile, zlib.error),
)


def refuse_pattern(folder: Path) -> None:
    """Raises UsageError if TensorFlow would take the path of a folder for a pattern and find nothing in it."""
    found = _PATTERN_CHARACTERS.intersection(str(folder.absolute()))
    if found:
        raise UsageError(
            f"TensorFlow cannot load from {folder.absolute()}, since it takes {' '.join(sorted(found))} for a "
            "pattern; choose a folder without it."
        )


def require_writable(path: Path, option: str) -> None:
    """Raises UsageError if a file cannot be written, before anything is computed for it.

    Args:
        path: The file.
        option: What it was given by, such as "--out".
    """
    if not path.parent.is_dir() or path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path} cannot be written; choose a file in a folder that exists with {option}.")


class UnreadableArraysError(ValueError):
    """Why a file of arrays cannot be used, in a few words; who reads it says which file and what to do."""


def read_arrays(path: Path, *required: str) -> dict[str, np.ndarray]:
    """All arrays of an .npz file by their names, of whatever shapes and types; nothing of it is unpickled.

    Args:
        path: Of the file.
        required: Names that have to be there.

    Raises:
        UnreadableArraysError: If there is no such file, it is something else or damaged, or lacks an array.
    """
    try:
        # NumPy leaves a file open that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
    except OSError as error:
        raise UnreadableArraysError(error.strerror or str(error)) from error
    except _OF_DAMAGED_ARRAYS as error:
        raise UnreadableArraysError("it is damaged, or no .npz file") from error
    lacking = [name for name in required if name not in arrays]
    if lacking:
        raise UnreadableArraysError(f"it has no array `{lacking[0]}`")
    return arrays


def sync(path: Path) -> None:
    """Waits until a file is on the disk, or the names in a folder where its file system can do that."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems sync no folders; they take care of names themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(handle)


def put_in_place(draft: Path, path: Path, previous: Path | None = None) -> None:
    """Gives a finished file or folder its name in one step, so that a power cut leaves all of it or nothing of it.

    Args:
        draft: Comes to the disk, with all that is in it, before it is renamed.
        path: The name, which is on the disk afterwards; in the same file system. A file that is there is replaced.
        previous: Where a folder that is there goes first, since only an empty one could be replaced.

    Raises:
        OSError: If it cannot be written or renamed.
    """
    _sync_tree(draft)
    if previous is not None and path.exists():
        path.rename(previous)
    draft.rename(path)
    sync(path.parent)


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[BinaryIO]:
    """A new file to write into, which replaces the one at `path` in one step when the block ends without an error.

    The parent folder must exist. Who may read it is up to the umask, as for every other file.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as file:
            yield file
        put_in_place(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces the file at `path` in one step; text is encoded as UTF-8. The parent folder must exist."""
    with replaced_file(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


def _sync_tree(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for inside in path.iterdir():
            _sync_tree(inside)
    sync(path)
