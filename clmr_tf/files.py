"""Files that other programs rely on: written whole or not at all, where they can be found again."""

import os
import tempfile
import zipfile
import zlib
from pathlib import Path

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
    """Waits until a file is on the disk, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces the file at `path` in one step; text is encoded as UTF-8. The parent folder must exist."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only the owner may read.
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
