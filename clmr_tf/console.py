"""What all commands share: two consoles, the progress bar, errors as sentences, exit codes."""

import contextlib
import hashlib
import logging
import math
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console

from clmr_tf.errors import PACKAGES_OF_TRAIN, ClmrError, UsageError, install_extra, is_disk_full
from clmr_tf.quiet_start import hide_tensorflow_start

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

_EXTRAS = {"sklearn": "browse"}
SignalHandler = Callable[[int, FrameType | None], Any] | int | None
"""What `signal.signal` takes and returns; None for a handler that was not installed from Python."""

# Emoji codes are off, so a file called ":guitar: solo.wav" keeps its name.
stdout = Console(highlight=False, soft_wrap=True, emoji=False)
stderr = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
_SECONDS_BETWEEN_LINES = 30.0


def progress_bar(*amounts: "ProgressColumn") -> "Progress":
    """A progress bar on standard error, removed when it ends; shows nothing if standard error is not a terminal.

    Args:
        amounts: Columns after the bar. Default: the number done, the total, and the time left.
    """
    # Imported late, because many commands show no bar.
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    amounts = amounts or (MofNCompleteColumn(), TimeRemainingColumn())
    description = TextColumn("{task.description}", markup=False)
    return Progress(description, BarColumn(), *amounts, console=stderr, transient=True, disable=not stderr.is_terminal)


@contextlib.contextmanager
def shown_progress() -> Iterator[Callable[..., None]]:
    """Shows the progress of a long command on standard error: a bar on a terminal, otherwise a line every half minute.

    Yields a function that takes the amount done, the total, the text before the bar, and the line; without text and
    line, it only moves the bar. Nothing is shown before its first call.
    """
    bar, last_line_at = progress_bar(), -math.inf
    task = bar.add_task("", total=None)

    def show(num_done: int, total: int, words: str | None = None, line: str | None = None) -> None:
        nonlocal last_line_at
        bar.start()
        bar.update(task, completed=num_done, total=total, description=words)
        is_due = num_done == total or time.monotonic() - last_line_at >= _SECONDS_BETWEEN_LINES
        if line is not None and is_due and not stderr.is_terminal:
            stderr.print(line, markup=False)
            last_line_at = time.monotonic()

    try:
        yield show
    finally:
        bar.stop()


def run_command(command: Callable[[Sequence[str]], None], arguments: Sequence[str] | None = None) -> int:
    """Runs a command and turns its exceptions into one sentence and an exit code.

    Exit codes: 0 success, 1 failure, 2 wrong usage (UsageError), 130 interrupted, 143 terminated; SystemExit passes
    through. With `--debug` among the arguments, the traceback is printed as well.

    Args:
        command: Takes the command line's arguments, without the program's name.
        arguments: Default: `sys.argv[1:]`.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    hide_tensorflow_start()
    logging.basicConfig(level=logging.WARNING, handlers=[_LogHandler()])
    # Only for this package: messages of other libraries at this level do not help users.
    logging.getLogger("clmr_tf").setLevel(logging.INFO)
    terminations: list[int] = []
    try:
        with _interrupted_by_sigterm(terminations):
            command(arguments)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - every error ends as one sentence
        if debug:
            traceback.print_exc()
        # A library may have replaced the interrupt with its own exception.
        sentence, exit_code = ("Terminated.", EXIT_TERMINATED) if terminations else describe(error)
        stderr.print(f"error: {sentence}", style="red", markup=False)
        return exit_code
    return 0


@contextlib.contextmanager
def _interrupted_by_sigterm(received: list[int]) -> Iterator[None]:
    """Makes SIGTERM raise KeyboardInterrupt, so that cleanup runs, and appends it to `received`.

    KeyboardInterrupt is not a subclass of Exception. That matters because AutoGraph catches every Exception in the code
    that it runs and raises another one.
    """

    def interrupt(number: int, _frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        restore_signal_handler(signal.SIGTERM, before)


def restore_signal_handler(number: int, before: SignalHandler) -> None:
    """Restores the handler that `signal.signal` returned.

    None means that the handler was not installed from Python. It cannot be restored, so the signal gets its default
    action, which ends the process for SIGTERM and SIGINT.
    """
    signal.signal(number, signal.SIG_DFL if before is None else before)


def _install(module: str | None) -> str:
    # Teaching and pictures need no TensorFlow, which is not there for every Python.
    name = str(module).partition(".")[0]
    return "run `pip install matplotlib`" if name == "matplotlib" else install_extra(_EXTRAS.get(name, "train"))


def describe(error: BaseException) -> tuple[str, int]:
    """One sentence about an error, and the exit code of a command that it ends."""
    if isinstance(error, ModuleNotFoundError) and str(error.name).partition(".")[0] in PACKAGES_OF_TRAIN:
        error = UsageError(f"This needs the package {error.name}, which is not installed; {_install(error.name)}.")
    if isinstance(error, ClmrError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted.", EXIT_INTERRUPTED
    where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    if is_disk_full(error):
        return f"The disk is full{where}; free some space and rerun the command.", EXIT_FAILURE
    if isinstance(error, OSError):
        return f"{error.strerror or error}{where}.", EXIT_FAILURE
    if isinstance(error, MemoryError):
        return "Out of memory; use a smaller --batch-size or a smaller --width.", EXIT_FAILURE
    return f"Unexpected {type(error).__name__}: {_reason(error)} (--debug shows where).", EXIT_FAILURE


def _reason(error: BaseException) -> str:
    """The line of a message that gives the reason: the first, unless a library puts the location before it."""
    # Keras prints the reason in bold and the arguments of the call after it.
    text = re.sub(r"\x1b\[\d*m", "", str(error)).partition("Arguments received by")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    # For example AutoGraph's "in user code:", followed by the traceback, and "Graph execution error:".
    is_location = lines[0].endswith(":") or lines[0].startswith("Exception encountered when calling")
    return lines[-1].removeprefix(f"{type(error).__name__}: ") if is_location else lines[0]


def printable(name: str) -> str:
    """A file name as valid UTF-8.

    Other bytes become `\\xff`, and a hash at the end distinguishes such names.
    """
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raw = os.fsencode(name)
        return f"{raw.decode('utf-8', 'backslashreplace')}#{hashlib.sha256(raw).hexdigest()[:8]}"
    return name


def minutes_and_seconds(seconds: float) -> str:
    """75.4 as "1:15"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class _LogHandler(logging.Handler):
    """Writes log records through the console, so that they do not break a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            stderr.print(record.getMessage(), markup=False)
            return
        stderr.print(f"{record.levelname.lower()}: {record.getMessage()}", style="yellow", markup=False)
