"""What the tests let worker processes do. Workers import this file by name, so it holds nothing else."""

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from clmr_tf.audio.isolation import run_in_workers


def square(number: int) -> int:
    return number * number


def misbehave(task: tuple[str, float]) -> object:
    """Does what `task` names, with its number: the ways in which a decoder can fail."""
    name, number = task
    if name == "sleep":
        time.sleep(number)
    elif name == "exit":
        os._exit(int(number))
    elif name == "segfault":
        ctypes.string_at(0)
    elif name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif name == "interrupted":
        os.kill(os.getpid(), signal.SIGINT)
    elif name == "raise":
        raise ValueError(f"number {number:g}")
    elif name == "raise unpicklable":
        raise UnpicklableError(lambda: None)
    elif name == "print":
        sys.stdout.write("noise" * 10)
        sys.stdout.flush()
        os.write(2, b"noise from a decoder\n")
    return number


class UnpicklableError(Exception):
    pass


def die_once(marker: Path) -> str:
    """Dies, unless it did so before."""
    if not marker.exists():
        marker.touch()
        os._exit(9)
    return "survived"


def meet_partner(notes: tuple[Path, Path]) -> int:
    """Leaves the first note and waits for the second, which another process has to leave."""
    own, partners = notes
    own.touch()
    while not partners.exists():
        time.sleep(0.001)
    return os.getpid()


def hold_workers_busy(folder: Path) -> None:
    """A parent whose two workers note their process ids and then sleep."""
    tasks = [folder / name for name in ("first", "second")]
    with contextlib.closing(run_in_workers(note_and_sleep, tasks, num_workers=2, timeout_seconds=3600)) as outcomes:
        list(outcomes)


def note_and_sleep(path: Path) -> None:
    path.with_suffix(".part").write_text(str(os.getpid()))
    path.with_suffix(".part").replace(path)
    time.sleep(3600)


if __name__ == "__main__":
    # Workers do not import the main module, so the functions must be those of the module by its name.
    from tests.clmr_tf.audio import worker_functions

    worker_functions.hold_workers_busy(Path(sys.argv[1]))
