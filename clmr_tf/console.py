"""The one console of all commands: results on standard output, progress and notes on standard error."""

import contextlib
import hashlib
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from rich.console import Console

from clmr_tf.errors import ClmrError, is_disk_full
from clmr_tf.quiet_start import hold_back_tensorflow_start

SignalHandler = Callable[[int, FrameType | None], Any] | int | None
"""What `signal.signal` takes and returns; None for a handler that was not installed from Python."""

# A file called ":guitar: solo.wav" is no picture of a guitar.
stdout = Console(highlight=False, soft_wrap=True, emoji=False)
stderr = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


def run_command(command: Callable[[Sequence[str]], None], arguments: Sequence[str] | None = None) -> int:
    """Runs a command and turns what it raises into one sentence and an exit code.

    Exit codes: 0 done, 2 asked for something impossible (UsageError), 1 failed, 130 interrupted, 143 terminated;
    a command may choose another through SystemExit. `--debug` among the arguments shows the traceback as well.

    Args:
        command: Takes the command line's arguments without the program's name.
        arguments: Those arguments; `sys.argv[1:]` if None.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    hold_back_tensorflow_start()
    logging.basicConfig(level=logging.WARNING, handlers=[_NotesHandler()])
    # Ours alone: other libraries tell what nobody needs to know.
    logging.getLogger("clmr_tf").setLevel(logging.INFO)
    terminations: list[int] = []
    try:
        with _interrupted_by_sigterm(terminations):
            command(arguments)
    # Everything, because this is the last place where an error can still become a sentence.
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - see above
        if debug:
            traceback.print_exc()
        # Whatever a library made of the interrupt on its way here.
        sentence, exit_code = ("Terminated.", EXIT_TERMINATED) if terminations else _describe(error)
        stderr.print(f"error: {sentence}", style="red", markup=False)
        return exit_code
    return 0


@contextlib.contextmanager
def _interrupted_by_sigterm(noted: list[int]) -> Iterator[None]:
    """Makes SIGTERM interrupt like Ctrl-C, so that it cleans up, and notes it; what has something to save handles it.

    No error of our own: AutoGraph and others catch every Exception of the code they run and raise their own.
    """

    def interrupt(number: int, _frame: object) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        restore_signal_handler(signal.SIGTERM, before)


def restore_signal_handler(number: int, before: SignalHandler) -> None:
    """Lets a signal be handled as it was before `signal.signal` returned `before`.

    A handler that was not installed from Python, for which that is None, cannot be brought back from there; the signal
    then acts as it does by default, which for SIGTERM and SIGINT is to end the process.
    """
    signal.signal(number, signal.SIG_DFL if before is None else before)


def _describe(error: BaseException) -> tuple[str, int]:
    if isinstance(error, ClmrError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted.", EXIT_INTERRUPTED
    where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    if is_disk_full(error):
        return f"The disk is full{where}; free some space and start the same command again.", EXIT_FAILURE
    if isinstance(error, OSError):
        return f"{error.strerror or error}{where}.", EXIT_FAILURE
    if isinstance(error, MemoryError):
        return "Out of memory; use a smaller --batch-size or a smaller --width.", EXIT_FAILURE
    return f"Unexpected {type(error).__name__}: {_reason(error)} (--debug shows where).", EXIT_FAILURE


def _reason(error: BaseException) -> str:
    """The line of a message that says why: the first, unless a library puts the place before it."""
    # Keras makes the reason bold, and has the arguments of the call behind it.
    text = re.sub(r"\x1b\[\d*m", "", str(error)).partition("Arguments received by")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    # Such as "in user code:" of AutoGraph, with the traceback behind it, and "Graph execution error:".
    is_place = lines[0].endswith(":") or lines[0].startswith("Exception encountered when calling")
    return lines[-1].removeprefix(f"{type(error).__name__}: ") if is_place else lines[0]


def printable(name: str) -> str:
    """A file name as text that every terminal and every encoder takes.

    Bytes that are not UTF-8 become `\\xff`, and a mark at the end keeps two such names apart.
    """
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raw = os.fsencode(name)
        return f"{raw.decode('utf-8', 'backslashreplace')}#{hashlib.sha256(raw).hexdigest()[:8]}"
    return name


class _NotesHandler(logging.Handler):
    """Writes log records through the console, so that they do not tear a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            stderr.print(record.getMessage(), markup=False)
            return
        stderr.print(f"{record.levelname.lower()}: {record.getMessage()}", style="yellow", markup=False)
