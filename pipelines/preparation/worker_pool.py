"""Runs one function over many tasks in worker processes that may hang or die, and loses none of the tasks."""

import collections
import dataclasses
import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic

from clmr_tf.audio.isolation import Result, Task, WorkerCrashError, WorkerProcess, WorkerStartError

# Tasks taken ahead per worker: while one file runs into its time limit, the other workers get this far.
_WINDOW_PER_WORKER = 16
# A worker can die through no fault of its task, when memory is short; a task that kills two is to blame.
_NUM_ATTEMPTS = 2


@dataclasses.dataclass(frozen=True)
class Outcome(Generic[Result]):
    """The result of one task, or the error that it ended with.

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
        function: As `WorkerProcess` takes it.
        tasks: Arguments, one per call.
        num_workers: Processes, at least 1.
        timeout_seconds: Time limit of one call, on the wall clock.

    Raises:
        WorkerStartError: If the workers cannot start.
    """
    workers: list[WorkerProcess[Task, Result]] = [WorkerProcess(function) for _ in range(num_workers)]
    # Last in, first out: a worker that runs already is used before another one is started.
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
        except Exception as error:  # noqa: BLE001 - whatever the function raised, the caller decides
            return Outcome(None, error)
    return Outcome(None, WorkerCrashError(exit_code, _NUM_ATTEMPTS))
