"""The folder that `python -m clmr_tf.augment` writes: what its files are called, and that they can be written.

Loads nothing heavy, so that a folder that cannot be is refused before anything is computed.
"""

from collections.abc import Iterable
from pathlib import Path

from clmr_tf.errors import UsageError

MAX_NUM_VIEWS = 100
PARAMETERS_FILE = "views.json"
PICTURE_FILE = "views.png"


def sound_files(number: int) -> tuple[str, str]:
    """Names of the crop and of the view with this number, from 1 on."""
    return f"crop-{number}.wav", f"view-{number}.wav"


def check_can_be_written(folder: Path, num_views: int) -> None:
    """Raises UsageError if something stands in the place of the folder or of a file that is to be written into it."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; choose another --out.")
    for name in (*_all_sound_files(range(1, num_views + 1)), PARAMETERS_FILE, PICTURE_FILE):
        if (folder / name).is_dir():
            raise UsageError(f"{folder / name} is a folder; move it away or choose another --out.")


def make_folder(folder: Path) -> None:
    """Makes the folder and those above it where they are missing.

    Raises:
        UsageError: If that cannot be done.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error.strerror}); choose another --out.") from error


def remove_sounds_beyond(folder: Path, num_views: int) -> None:
    """Removes the crops and views that an earlier run with more of them left behind."""
    for name in _all_sound_files(range(num_views + 1, MAX_NUM_VIEWS + 1)):
        if (folder / name).is_file():
            (folder / name).unlink()


def _all_sound_files(numbers: Iterable[int]) -> list[str]:
    return [name for number in numbers for name in sound_files(number)]
