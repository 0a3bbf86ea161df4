"""Runs calls, tasks and decoders in other processes, which may hang or crash without harming the command."""

import collections
import contextlib
import dataclasses
import importlib
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import connection, resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from clmr_tf.errors import ClmrError

# Imported in functions, so that a command can start the process of its decoder before it imports NumPy itself.
if TYPE_CHECKING:
    import numpy as np

    from clmr_tf.audio.decoding import AudioStream

Task = TypeVar("Task")
Result = TypeVar("Result")

# Before a worker is ready, it imports NumPy, decoders and sometimes TensorFlow, possibly from a slow disk.
_START_LIMIT_SECONDS = 300.0
_NUM_START_ATTEMPTS = 3
_KILL_LIMIT_SECONDS = 10.0


class WorkerStartError(ClmrError):
    """The process of a worker could not be started."""


class WorkerTimeoutError(ClmrError):
    """A call took longer than its time limit; the process was killed."""


class WorkerCrashError(ClmrError):
    """The process died during a call: a decoder crashed, or the kernel killed it because memory ran out.

    Attributes:
        exit_code: Exit code of the process, negative for a signal; None if it could not be killed.
    """

    def __init__(self, exit_code: int | None, num_times: int = 1) -> None:
        times = f" {num_times} times" if num_times > 1 else ""
        super().__init__(f"Its worker process died{times} with exit code {exit_code}.")
        self.exit_code = exit_code


class WorkerProcess(Generic[Task, Result]):
    """Calls one function in a separate process, which is restarted if it died.

    The process is spawned, not forked: a fork would copy locks that TensorFlow's threads may hold. It ignores Ctrl-C,
    which a terminal sends to the whole process group, and exits when its parent is gone, even after `kill -9`. Each
    process has its own pipe. In pebble 5.2, workers share one pipe and the parent keeps both ends open: a worker that
    was killed while sending a result blocked the pool forever, despite all time limits.

    Args:
        function: Importable by name (or a `functools.partial` of such a function); tasks, results and errors must be
            picklable. None of them may come from the program's main module, which the process does not import.
        modules: Imported before the first call.
    """

    def __init__(self, function: Callable[[Task], Result], modules: Sequence[str] = ()) -> None:
        self._function, self._modules = function, modules
        self._process: Any = None
        self._connection: Any = None
        self._is_ready = False
        self._is_closed = False
        # Prevents a start in one thread while another thread closes.
        self._lock = threading.Lock()

    def start(self) -> None:
        """Starts the process unless it is running; does not wait until it is ready."""
        with self._lock:
            if self._process is not None:
                return
            if self._is_closed:
                raise WorkerStartError("The worker is closed; create another one.")
            context = multiprocessing.get_context("spawn")
            self._connection, far_end = context.Pipe()
            self._process = context.Process(target=_serve, args=(self._function, self._modules, far_end), daemon=True)
            with _sigint_blocked(), _main_module_hidden():
                self._process.start()
            # Now only the worker has this end, so the pipe is closed if the worker dies.
            far_end.close()
            self._is_ready = False

    def call(self, task: Task, timeout_seconds: float) -> Result:
        """The function's result for `task`; one call at a time.

        Raises:
            WorkerStartError: If the process cannot be started.
            WorkerTimeoutError: If the function takes too long.
            WorkerCrashError: If the process dies.
            Exception: Whatever the function raises.
        """
        self._wait_until_ready()
        try:
            self._connection.send(task)
            if not self._connection.poll(timeout_seconds):
                self._end()
                raise WorkerTimeoutError(f"It took longer than {timeout_seconds:g} seconds.")
            result, error = self._connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise WorkerCrashError(self._end()) from error
        if error is not None:
            raise error
        return result

    def kill(self) -> None:
        """Kills the process, from any thread, and never starts it again; a call in progress ends with an error."""
        with self._lock:
            self._is_closed = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """Kills the process and frees what it used; not during a call."""
        self.kill()
        self._end()

    def _wait_until_ready(self) -> None:
        exit_code = None
        for _ in range(_NUM_START_ATTEMPTS):
            self.start()
            with contextlib.suppress(EOFError, OSError):
                if not self._is_ready and self._connection.poll(_START_LIMIT_SECONDS):
                    self._connection.recv()
                    self._is_ready = True
            if self._is_ready:
                return
            exit_code = self._end()
        raise WorkerStartError(
            f"Worker processes cannot start (exit code {exit_code}); make sure that there is enough memory."
        )

    def _end(self) -> int | None:
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        # A process that waits for a dead network disk cannot be killed; it is left to the kernel.
        process.join(_KILL_LIMIT_SECONDS)
        exit_code = process.exitcode
        self._connection.close()
        if exit_code is not None:
            process.close()
        return exit_code


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    # A Ctrl-C before the first line of the child would print a traceback for every worker, so the child starts with
    # the signal blocked. Starting the resource tracker unblocks it, so that comes first.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_START_LOCK = threading.Lock()


@contextlib.contextmanager
def _main_module_hidden() -> Iterator[None]:
    # Otherwise the child would import the program's main module first, which takes seconds if that imports TensorFlow,
    # and starts the same workers again in a script without `if __name__ == "__main__":`.
    with _START_LOCK:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _serve(function: Callable[[Any], Any], modules: Sequence[str], pipe: connection.Connection) -> None:
    """In the worker: answers calls until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _silence_decoders()
    for module in modules:
        importlib.import_module(module)
    pipe.send("ready")
    with contextlib.suppress(EOFError, ConnectionResetError):
        while True:
            pipe.send(_attempt(function, pipe.recv()))


def _attempt(function: Callable[[Any], Any], task: Any) -> tuple[Any, Exception | None]:
    try:
        return function(task), None
    except Exception as error:  # noqa: BLE001 - the parent gets every error and decides
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # noqa: BLE001 - pickling other libraries' exceptions can fail in any way
            return None, RuntimeError(f"{type(error).__name__}: {error}")
        return None, error


def _exit_with_parent() -> None:
    # Decoders release the interpreter's lock, so this thread runs even while one of them hangs.
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _silence_decoders() -> None:
    # MPEG decoders write a line to standard error for every damaged frame, which garbles the progress bar.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)


# Tasks fetched ahead per worker, which keeps the other workers busy while one file runs into its time limit.
_WINDOW_PER_WORKER = 16
# Any worker can die when memory runs out; only a task that kills two workers is considered the cause.
_NUM_ATTEMPTS = 2


@dataclasses.dataclass(frozen=True)
class Outcome(Generic[Result]):
    """The result of one task, or its error.

    Attributes:
        result: What the function returned.
        error: None, or what the function raised, or WorkerTimeoutError, or WorkerCrashError.
    """

    result: Result | None
    error: Exception | None = None


def run_in_workers(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    num_workers: int,
    timeout_seconds: float,
) -> Iterator[Outcome[Result]]:
    """Runs `function` on every task and yields one outcome per task, in the order of the tasks.

    Tasks are fetched from the iterable only when needed, at most 16 per worker ahead of the one whose outcome is
    yielded next. Close the iterator (`contextlib.closing`) to end the workers early.

    Args:
        function: See `WorkerProcess`.
        tasks: Arguments, one per call.
        num_workers: Processes, at least 1.
        timeout_seconds: Time limit for one call, in wall-clock time.

    Raises:
        WorkerStartError: If the workers cannot start.
    """
    workers: list[WorkerProcess[Task, Result]] = [WorkerProcess(function) for _ in range(num_workers)]
    # Last in, first out: a worker that is already running is used before another one is started.
    idle: queue.LifoQueue[WorkerProcess[Task, Result]] = queue.LifoQueue()
    for worker in workers:
        idle.put(worker)
    pending: collections.deque[Future[Outcome[Result]]] = collections.deque()

    def run(task: Task) -> Outcome[Result]:
        worker = idle.get()
        try:
            return _outcome(worker, task, timeout_seconds)
        finally:
            idle.put(worker)

    # Its threads only wait for the processes.
    threads = ThreadPoolExecutor(num_workers)
    try:
        for task in tasks:
            pending.append(threads.submit(run, task))
            if len(pending) == _WINDOW_PER_WORKER * num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for worker in workers:
            worker.kill()
        threads.shutdown(cancel_futures=True)
        for worker in workers:
            worker.close()


def _outcome(worker: WorkerProcess[Task, Result], task: Task, timeout_seconds: float) -> Outcome[Result]:
    exit_code = None
    for _ in range(_NUM_ATTEMPTS):
        try:
            return Outcome(worker.call(task, timeout_seconds))
        except WorkerStartError:
            raise
        except WorkerCrashError as error:
            exit_code = error.exit_code
        except Exception as error:  # noqa: BLE001 - the caller gets every error and decides
            return Outcome(None, error)
    return Outcome(None, WorkerCrashError(exit_code, _NUM_ATTEMPTS))


# A reply of some seconds of audio takes milliseconds; a sleeping disk takes longer.
_REPLY_LIMIT_SECONDS = 60.0
_NUM_SAMPLES_PER_REPLY = 1 << 17


class IsolatedDecoder:
    """Opens files like `clmr_tf.audio.decoding.open_audio`, but in another process, which is started at once.

    It is a context manager; the process ends with it. It decodes one file at a time and may be used from any thread,
    but only from one at a time.

    Args:
        reply_limit_seconds: How long the next piece of a file may take.
    """

    def __init__(self, reply_limit_seconds: float = _REPLY_LIMIT_SECONDS) -> None:
        self._reply_limit_seconds = reply_limit_seconds
        self._worker: WorkerProcess[_Request | None, tuple] = WorkerProcess(
            _reply, modules=["clmr_tf.audio.decoding", "av"]
        )
        self._worker.start()

    def __enter__(self) -> "IsolatedDecoder":
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()

    @contextlib.contextmanager
    def open(self, path: Path, sample_rate_hz: int) -> Iterator["AudioStream"]:
        """Opens a file; see `open_audio`.

        Raises:
            UnreadableAudioError: Also if the decoder crashes ("crashed") or stops answering ("timed_out").
        """
        from clmr_tf.audio.decoding import AudioReport, AudioStream, reported_as_unreadable

        with reported_as_unreadable(path):
            opened = self._ask(_Request(path, sample_rate_hz))
        report = AudioReport()

        def blocks() -> Iterator["np.ndarray"]:
            at_end = None
            while at_end is None:
                with reported_as_unreadable(path):
                    block, at_end = self._ask(None)
                if at_end is not None:
                    vars(report).update(dataclasses.asdict(at_end))
                yield block

        yield AudioStream(*opened, report, blocks())

    def _ask(self, request: "_Request | None") -> tuple:
        from clmr_tf.audio.decoding import CRASHED, TIMED_OUT, UnreadableAudioError

        try:
            return self._worker.call(request, self._reply_limit_seconds)
        except WorkerTimeoutError as error:
            limit = f"{self._reply_limit_seconds:g} s"
            raise UnreadableAudioError(TIMED_OUT, f"its decoder sent no audio for {limit} and was stopped") from error
        except WorkerCrashError as error:
            raise UnreadableAudioError(CRASHED, f"its decoder crashed (exit code {error.exit_code})") from error


@dataclasses.dataclass(frozen=True)
class _Request:
    path: Path
    sample_rate_hz: int


class _OpenFile:
    """In the worker: the file that is open now."""

    stack = contextlib.ExitStack()
    stream: "AudioStream | None" = None


def _reply(request: _Request | None) -> tuple:
    """In the worker: opens a file, or returns the next samples of the open one, and at its end the report."""
    import numpy as np

    from clmr_tf.audio.decoding import open_audio

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
