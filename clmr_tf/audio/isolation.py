"""Decoding in a process of its own, which may hang or crash without harm to the command."""

import contextlib
import dataclasses
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
from pathlib import Path
from typing import Any

import numpy as np

from clmr_tf.audio.decoding import (
    CRASHED,
    TIMED_OUT,
    AudioReport,
    AudioStream,
    UnreadableAudioError,
    open_audio,
    reported_as_unreadable,
)
from clmr_tf.errors import ClmrError

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


# A reply of some seconds of audio takes milliseconds; a sleeping disk takes longer.
_REPLY_LIMIT_SECONDS = 60.0
_NUM_SAMPLES_PER_REPLY = 1 << 17


class IsolatedDecoder:
    """Opens files like `clmr_tf.audio.decoding.open_audio`, in another process, which is started at once.

    A context manager, whose end is that of the process. One file at a time, from any one thread.

    Args:
        reply_limit_seconds: How long the next piece of a file may take.
    """

    def __init__(self, reply_limit_seconds: float = _REPLY_LIMIT_SECONDS) -> None:
        self._reply_limit_seconds = reply_limit_seconds
        self._worker: WorkerProcess | None = WorkerProcess(_reply)

    def __enter__(self) -> "IsolatedDecoder":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @contextlib.contextmanager
    def open(self, path: Path, sample_rate_hz: int) -> Iterator[AudioStream]:
        """Opens a file; see `open_audio`.

        Raises:
            UnreadableAudioError: Also if the decoder crashes ("crashed") or stops answering ("timed_out").
        """
        with reported_as_unreadable(path):
            opened = self._ask(_Request(path, sample_rate_hz))
        report = AudioReport()

        def blocks() -> Iterator[np.ndarray]:
            while True:
                with reported_as_unreadable(path):
                    block, at_end = self._ask(None)
                if at_end is not None:
                    vars(report).update(dataclasses.asdict(at_end))
                yield block
                if at_end is not None:
                    return

        yield AudioStream(*opened, report, blocks())

    def _ask(self, request: "_Request | None") -> tuple:
        worker = self._running_worker()
        worker.give(request, request or "next", self._reply_limit_seconds)
        try:
            if not worker.connection.poll(self._reply_limit_seconds):
                self._end()
                limit = f"{self._reply_limit_seconds:g} s"
                raise UnreadableAudioError(TIMED_OUT, f"its decoder gave no audio for {limit} and was stopped")
            result, error = worker.receive()
        except EOFError as error:
            exit_code = self._end()
            raise UnreadableAudioError(CRASHED, f"its decoder crashed (exit code {exit_code})") from error
        if error is not None:
            raise error
        return result

    def _running_worker(self) -> WorkerProcess:
        self._worker = self._worker or WorkerProcess(_reply)
        if not self._worker.is_ready:
            # It ends while it starts: no reply, as if it took too long.
            with contextlib.suppress(EOFError):
                if self._worker.connection.poll(max(0.0, self._worker.deadline - time.monotonic())):
                    self._worker.receive()
            if not self._worker.is_ready:
                exit_code = self._end()
                raise ClmrError(
                    f"The process that decodes files cannot start (exit code {exit_code}); free some memory."
                )
        return self._worker

    def _end(self) -> int | None:
        worker, self._worker = self._worker, None
        return worker.end() if worker is not None else None


@dataclasses.dataclass(frozen=True)
class _Request:
    path: Path
    sample_rate_hz: int


class _OpenFile:
    """The file that the process is at."""

    stack = contextlib.ExitStack()
    stream: AudioStream | None = None


def _reply(request: _Request | None) -> tuple:
    """In the process: opens a file, or gives the next samples of the open one and at its end the report."""
    if request is not None:
        _OpenFile.stack.close()
        _OpenFile.stream = _OpenFile.stack.enter_context(open_audio(request.path, request.sample_rate_hz))
        return _OpenFile.stream.source_rate_hz, _OpenFile.stream.source_num_channels
    pieces, num_samples = [np.zeros(0, np.float32)], 0
    for piece in _OpenFile.stream.blocks:
        pieces.append(piece)
        num_samples += len(piece)
        if num_samples >= _NUM_SAMPLES_PER_REPLY:
            return np.concatenate(pieces), None
    return np.concatenate(pieces), _OpenFile.stream.report
