"""One process that runs a function on one task after the other, and both ends of the talk with it."""

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection as messages
from multiprocessing import resource_tracker
from typing import Any

# A worker imports NumPy and decoders, sometimes TensorFlow, before it is ready, from a cold and busy disk.
START_UP_LIMIT_SECONDS = 300.0
_KILL_LIMIT_SECONDS = 10.0
_READY = "ready"


class WorkerProcess:
    """The parent's end: starts the process, hands it tasks, takes results, ends it.

    The process is spawned, never forked: a fork would copy the locks of TensorFlow's threads as they happen
    to be. It ignores Ctrl-C, which a terminal sends to every process of the group, and leaves ending to the
    parent; it ends by itself when the parent is gone, however that came.

    Attributes:
        connection: What `multiprocessing.connection.wait` watches; ready when `receive` has something.
        job: What the parent noted when it gave the task, None while there is none.
        is_ready: Whether the function is imported and tasks are taken.
        deadline: `time.monotonic()` at which the start or the task has taken too long; infinite when idle.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, far_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(function, far_end), daemon=True)
        with _interrupts_held_back():
            self._process.start()
        far_end.close()
        self.job: Any = None
        self.is_ready = False
        self.deadline = time.monotonic() + START_UP_LIMIT_SECONDS

    def give(self, task: Any, job: Any, timeout_seconds: float) -> None:
        """Sends a task to an idle worker; if the worker just died, `receive` will tell."""
        self.job = job
        self.deadline = time.monotonic() + timeout_seconds
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(task)

    def receive(self) -> tuple[Any, Exception | None] | None:
        """Result and error of the task, or None when the worker has become ready.

        Raises:
            EOFError: If the worker died.
        """
        try:
            message = self.connection.recv()
        except (OSError, pickle.UnpicklingError) as error:
            raise EOFError("the worker died while it was talking") from error
        self.deadline = float("inf")
        if not self.is_ready:
            self.is_ready = True
            return None
        self.job = None
        return message

    def end(self) -> int | None:
        """Kills the process if it still lives; returns its exit code, negative for a signal, None if it stays."""
        self._process.kill()
        # A process that waits for a dead network disk cannot be killed; it is left to the kernel.
        self._process.join(_KILL_LIMIT_SECONDS)
        exit_code = self._process.exitcode
        self.connection.close()
        if exit_code is not None:
            self._process.close()
        return exit_code


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    # A Ctrl-C between the start of the child and its first line would print a traceback for every worker, so
    # the child is born with the signal blocked. The tracker would unblock it when it is first started.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(function: Callable[[Any], Any], connection: messages.Connection) -> None:
    """The child's end: takes tasks until the parent hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _silence_decoders()
    connection.send(_READY)
    while True:
        try:
            task = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        connection.send(_attempt(function, task))


def _attempt(function: Callable[[Any], Any], task: Any) -> tuple[Any, Exception | None]:
    try:
        return function(task), None
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent gets it and decides
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # noqa: BLE001 - foreign exceptions fail to pickle in every way
            return None, RuntimeError(f"{type(error).__name__}: {error}")
        return None, error


def _exit_with_parent() -> None:
    # Decoders run outside the interpreter's lock, so this thread wakes up even while one of them hangs.
    messages.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _silence_decoders() -> None:
    # MPEG decoders write a line on standard error for every damaged frame, through the progress bar.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
