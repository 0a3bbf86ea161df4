"""The settings of a preparation, and where its corpus goes."""

import contextlib
import dataclasses
import fcntl
import shutil
from collections.abc import Iterator
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Literal

from clmr_tf.data.corpus import MANIFEST_FILE
from clmr_tf.data.resolution import prepared_name
from clmr_tf.errors import UsageError
from clmr_tf.files import put_in_place


@dataclasses.dataclass(frozen=True)
class PrepareSettings:
    """How a corpus is prepared."""

    sample_rate_hz: int = 22050
    """Sample rate of the corpus, in Hz."""
    min_num_samples: int = 59049
    """Shortest recording that is of use, in samples at that rate; the default is one clip, 2.68 seconds."""
    timeout_seconds: float = 300.0
    """Time limit for one file, in seconds; a healthy song takes less than one."""
    num_workers: int | None = None
    """Processes that decode; as many as there are cores if not given."""
    max_skipped_share: float = 0.5
    """Share of audio files, from 0 to 1, that may be unusable; more hints at a wrong folder or a bad disk."""
    reader: Literal["pcm", "direct"] = "pcm"
    """pcm: decode to 16-bit PCM, 2.6 MB a minute at 22050 Hz. direct: only check that training can decode."""

    def __post_init__(self) -> None:
        limits = {
            "sample_rate_hz": 1000 <= self.sample_rate_hz <= 768_000,
            "min_num_samples": self.min_num_samples >= 1,
            "timeout_seconds": self.timeout_seconds > 0,
            "num_workers": self.num_workers is None or self.num_workers >= 1,
            "max_skipped_share": 0 <= self.max_skipped_share <= 1,
        }
        for name, is_kept in limits.items():
            if not is_kept:
                raise UsageError(f"The setting {name} cannot be {getattr(self, name)}; see --help for what it means.")


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
