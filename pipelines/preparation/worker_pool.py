"""Runs one function over many tasks in worker processes that may hang or die, and loses none of them."""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection as messages
from typing import Any, Generic, TypeVar

from clmr_tf.audio.isolation import WorkerProcess
from clmr_tf.errors import ClmrError

Task = TypeVar("Task")
Result = TypeVar("Result")

# Tasks in hand per worker: while one file runs into its time limit, the other workers get this far ahead.
_WINDOW_PER_WORKER = 16
# A worker can die through no fault of its task, when memory is short; a task that kills two is to blame.
_ATTEMPTS_PER_TASK = 2
_NUM_FAILED_STARTS = 3


class WorkerTimeoutError(ClmrError):
    """A task took longer than its time limit; its worker was killed."""


class WorkerCrashError(ClmrError):
    """The workers that ran a task died: a fault in a decoder, or the kernel took back their memory."""


@dataclasses.dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What became of one task: a result, or an error that says why there is none.

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

    Tasks are taken from the iterable only as they are needed, at most 16 per worker ahead of the one whose
    outcome is due. Close the iterator (`contextlib.closing`) to end the workers before the last outcome.

    Args:
        function: Importable by name (or a `functools.partial` of such a function); tasks, results and errors
            must be picklable.
        tasks: Arguments, one per call.
        num_workers: Processes, at least 1.
        timeout_seconds: Time limit of one call, on the wall clock.

    Raises:
        ClmrError: If the workers cannot even start.
    """
    pool = _Pool(function, tasks, num_workers, timeout_seconds)
    try:
        yield from pool.outcomes()
    finally:
        pool.end()


@dataclasses.dataclass(frozen=True)
class _Job:
    position: int
    task: object
    attempt: int = 1


class _Pool(Generic[Task, Result]):
    def __init__(
        self, function: Callable[[Task], Result], tasks: Iterable[Task], num_workers: int, timeout_seconds: float
    ) -> None:
        self._function = function
        self._timeout_seconds = timeout_seconds
        self._num_workers = num_workers
        self._window = _WINDOW_PER_WORKER * num_workers
        self._fresh = enumerate(tasks)
        self._waiting: collections.deque[_Job] = collections.deque()
        self._workers: list[WorkerProcess] = []
        self._finished: dict[int, Outcome[Result]] = {}
        self._num_taken = 0
        self._num_yielded = 0
        self._num_failed_starts = 0

    def outcomes(self) -> Iterator[Outcome[Result]]:
        while True:
            self._take_tasks()
            if self._num_yielded == self._num_taken:
                return
            self._hand_out()
            self._listen()
            while self._num_yielded in self._finished:
                outcome = self._finished.pop(self._num_yielded)
                self._num_yielded += 1
                yield outcome

    def end(self) -> None:
        for worker in self._workers:
            worker.end()

    def _take_tasks(self) -> None:
        while len(self._waiting) < self._num_workers and self._num_taken - self._num_yielded < self._window:
            position, task = next(self._fresh, (None, None))
            if position is None:
                return
            self._num_taken += 1
            self._waiting.append(_Job(position, task))

    def _hand_out(self) -> None:
        for worker in self._workers:
            if self._waiting and worker.is_ready and worker.job is None:
                job = self._waiting.popleft()
                worker.give(job.task, job, self._timeout_seconds)
        num_starting = sum(not worker.is_ready for worker in self._workers)
        for _ in range(min(len(self._waiting) - num_starting, self._num_workers - len(self._workers))):
            self._workers.append(WorkerProcess(self._function))

    def _listen(self) -> None:
        patience = max(0.0, min(worker.deadline for worker in self._workers) - time.monotonic())
        by_connection: dict[Any, Any] = {worker.connection: worker for worker in self._workers}
        spoke = messages.wait(list(by_connection), None if patience == float("inf") else patience)
        for connection in spoke:
            self._take_message(by_connection[connection])
        now = time.monotonic()
        for worker in [worker for worker in self._workers if worker.deadline <= now]:
            self._replace(worker, timed_out=True)

    def _take_message(self, worker: WorkerProcess) -> None:
        job = worker.job
        try:
            message = worker.receive()
        except EOFError:
            self._replace(worker, timed_out=False)
            return
        self._num_failed_starts = 0
        if message is not None:
            self._finished[job.position] = Outcome(*message)

    def _replace(self, worker: WorkerProcess, *, timed_out: bool) -> None:
        """Ends a worker that is dead or takes too long; the next `_hand_out` starts another one."""
        self._workers.remove(worker)
        exit_code = worker.end()
        job: _Job | None = worker.job
        if job is None:
            self._count_failed_start(worker, exit_code)
        elif timed_out:
            error = WorkerTimeoutError(f"It took longer than {self._timeout_seconds:g} seconds.")
            self._finished[job.position] = Outcome(None, error)
        elif job.attempt < _ATTEMPTS_PER_TASK:
            self._waiting.appendleft(dataclasses.replace(job, attempt=job.attempt + 1))
        else:
            error = WorkerCrashError(f"Its worker process died {job.attempt} times, exit code {exit_code}.")
            self._finished[job.position] = Outcome(None, error)

    def _count_failed_start(self, worker: WorkerProcess, exit_code: int | None) -> None:
        self._num_failed_starts += not worker.is_ready
        if self._num_failed_starts >= _NUM_FAILED_STARTS:
            raise ClmrError(
                f"Worker processes cannot start (exit code {exit_code}); if a script of yours calls this, put "
                'its own code under `if __name__ == "__main__":`, and see that there is memory left.'
            )
