"""The folder that a corpus is prepared into: kept from others while it grows, finished in one step."""

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from errno import EDQUOT, ENOSPC
from pathlib import Path

from clmr_tf.corpus import MANIFEST_FILE
from clmr_tf.corpus_resolution import prepared_name
from clmr_tf.errors import UsageError
from clmr_tf.files import put_in_place
from pipelines.settings import PrepareSettings

CORPORA = Path("corpora")
WORK_FOLDER = "unfinished"
_LOCK_FILE = "lock"


def default_destination(pipeline: str, settings: PrepareSettings) -> Path:
    """Where a pipeline prepares its corpus if it is not told: where `--corpus` of other commands looks for it."""
    return CORPORA / prepared_name(pipeline, settings.sample_rate_hz, settings.reader)


@contextlib.contextmanager
def claimed_destination(destination: Path) -> Iterator[Path]:
    """Makes the folder and its work folder, and keeps every other preparation out.

    Yields:
        The work folder, which holds what has to survive a kill. It stays until `clear_work_folder`.

    Raises:
        UsageError: If the folder cannot be written, holds something else, or is being prepared right now.
    """
    work = destination / WORK_FOLDER
    try:
        if destination.exists() and not destination.is_dir():
            raise UsageError(f"{destination} is a file; choose a folder for the corpus.")
        destination.mkdir(parents=True, exist_ok=True)
        _refuse_foreign_files(destination)
        work.mkdir(exist_ok=True)
        lock = (work / _LOCK_FILE).open("w")
    except OSError as error:
        if error.errno in (ENOSPC, EDQUOT):
            raise
        raise UsageError(
            f"{destination} cannot be written ({error.strerror}); choose another folder for the corpus."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"Another process is preparing {destination} right now; wait until it is done.") from error
        yield work


def clear_work_folder(destination: Path) -> None:
    """Removes what a finished corpus does not need. Where that is not allowed, it does no harm."""
    shutil.rmtree(destination / WORK_FOLDER, ignore_errors=True)


def publish(content: bytes, path: Path, work: Path) -> None:
    """Puts a file in its place in one step: it is there completely or not at all, also after a power cut.

    Args:
        content: What the file shall hold.
        path: Its place.
        work: Folder on the same file system where it grows, and where a kill leaves it for the next start.
    """
    growing = work / f"new-{path.name}"
    growing.write_bytes(content)
    put_in_place(growing, path)


def _refuse_foreign_files(destination: Path) -> None:
    names = {entry.name for entry in destination.iterdir() if not entry.name.startswith(".")}
    if names and names.isdisjoint({WORK_FOLDER, MANIFEST_FILE}):
        raise UsageError(f"{destination} holds other files and no corpus; choose an empty folder for the corpus.")
