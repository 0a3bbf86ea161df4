"""Runs shards of work on Ray Core. The shards know nothing of Ray and may be repeated at any time.

Each worker is a Ray actor that is opened once (loads the model) and then takes one shard after the other. This process
hands them out: a shard whose worker or node dies goes to another worker.
"""

import collections
import contextlib
import dataclasses
import logging
import os
import signal
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Literal, TypeVar

from clmr_tf import __version__
from clmr_tf.console import restore_signal_handler, shown_progress
from clmr_tf.errors import ClmrError, UsageError, install_extra
from clmr_tf.hardware import num_usable_cores

Argument = TypeVar("Argument")
Summary = TypeVar("Summary")

_logger = logging.getLogger(__name__)

# A shard that has lost so many workers, on nodes that are still there, is considered the cause.
_MAX_LOST_WORKERS = 4
_SECONDS_BETWEEN_WARNINGS = 30.0


@dataclasses.dataclass(frozen=True)
class ClusterOptions:
    """Where the shards of a command run."""

    cluster: Literal["none", "local", "auto"] = "none"
    """none: work in this process. local: start Ray on this machine. auto: join the Ray cluster that runs, that of
    RAY_ADDRESS if it is set; all of its nodes need the same paths and the same version of this package."""
    worker_cpus: int = 1
    """CPU cores that each worker on a cluster reserves and uses."""
    worker_memory_gb: float = 2.0
    """Memory that each worker on a cluster reserves, in GB."""

    def __post_init__(self) -> None:
        """Raises UsageError for invalid values."""
        if self.worker_cpus < 1:
            raise UsageError(f"--worker-cpus must be at least 1; received {self.worker_cpus}.")
        if not self.worker_memory_gb > 0:
            raise UsageError(f"--worker-memory-gb must be more than 0; received {self.worker_memory_gb:g}.")


@dataclasses.dataclass(frozen=True)
class ShardTask(Generic[Argument]):
    """A shard as the cluster sees it.

    Attributes:
        name: Its name in messages, such as "3/16"; all are different.
        argument: What the function of a worker is called with; it must be picklable.
        num_files: Number of its files.
    """

    name: str
    argument: Argument
    num_files: int


def run_on_cluster(
    options: ClusterOptions,
    open_worker: Callable[[], Callable[[Argument], Summary]],
    tasks: Sequence[ShardTask[Argument]],
    *,
    doing: str,
) -> list[Summary]:
    """Runs shards on a Ray cluster, with a progress bar, and logs the warnings of its workers here.

    If it raises or is interrupted, all workers are killed; shards that have not finished are left as after any kill.

    Args:
        options: "local" or "auto", and what each worker reserves.
        open_worker: Called once in each worker; returns the function that does a shard. It must be picklable, and so
            must the summaries.
        tasks: The shards, in the order in which they are started.
        doing: The first words of the progress text.

    Returns:
        The summaries, in the order in which the shards finished.

    Raises:
        UsageError: If Ray is not installed, no cluster runs, no worker fits on this machine, or a node has another
            version of this package and no other node works; otherwise, a warning says so.
        ClmrError: If a shard fails, or loses four workers on nodes that are still there.
    """
    ray = _imported_ray(options)
    summaries: list[Summary] = []
    num_files, num_files_done = sum(task.num_files for task in tasks), 0
    with _connected(ray, options), shown_progress() as show:
        started = time.monotonic()
        for task, summary in _Run(ray, options, open_worker, tasks).finished():
            summaries.append(summary)
            num_files_done += task.num_files
            speed = f"{num_files_done / (time.monotonic() - started):.1f} files a second"
            state = f"{doing}: {len(summaries)} of {len(tasks)} shards, {speed}"
            show(num_files_done, num_files, state, state)
    return summaries


class _Run(Generic[Argument, Summary]):
    """Hands out shards to workers."""

    def __init__(
        self,
        ray: types.ModuleType,
        options: ClusterOptions,
        open_worker: Callable[[], Callable[[Argument], Summary]],
        tasks: Sequence[ShardTask[Argument]],
    ) -> None:
        self._ray, self._options = ray, options
        self._worker_class = ray.remote(
            num_cpus=options.worker_cpus, memory=_memory_bytes(options), scheduling_strategy="SPREAD"
        )(_worker_class())
        self._payload = ray.cloudpickle.dumps(open_worker)
        self._waiting = collections.deque(tasks)
        # Worker, node and shard; the last two are None while the worker waits for a place and is opened.
        self._running: dict[Any, tuple[Any, str | None, ShardTask[Argument] | None]] = {}
        self._num_places = max(1, _num_places(ray, options))
        self._num_lost: collections.Counter[str | None] = collections.Counter()
        for _ in range(min(self._num_places, len(tasks))):
            self._add_worker()

    def finished(self) -> Iterator[tuple[ShardTask[Argument], Summary]]:
        """Yields shards that have finished, with their summaries."""
        while self._waiting or self._is_working():
            done, _ = self._ray.wait(list(self._running), timeout=_SECONDS_BETWEEN_WARNINGS)
            if not done:
                if not self._is_working():
                    needs = _needs(self._options)
                    _logger.warning("No worker is ready yet; if this goes on, no node has room: %s.", needs)
                continue
            worker, node, task = self._running.pop(done[0])
            try:
                outcome = self._ray.get(done[0])
            except self._ray.exceptions.RayError as error:
                self._replace(worker, node, task, error)
                continue
            if task:
                yield task, _summary_of(outcome, task.name)
            else:
                node = self._node_of_opened(outcome)
            self._give_shard(worker, node)

    def _is_working(self) -> bool:
        return any(task for _, _, task in self._running.values())

    def _add_worker(self) -> None:
        worker = self._worker_class.remote()
        self._running[worker.open.remote(__version__, self._payload)] = worker, None, None

    def _replace(self, worker: Any, node: str | None, task: ShardTask[Argument] | None, error: Exception) -> None:
        """After the end of a worker or its node, or if it cannot be reached."""
        self._ray.kill(worker)
        name = task.name if task else None
        # A shard does not end nodes, which may be lost at any time.
        if not task or node in {one["NodeID"] for one in self._ray.nodes() if one["Alive"]}:
            self._num_lost[name] += 1
        # A node takes all workers with it that are being opened.
        if self._num_lost[name] >= _MAX_LOST_WORKERS * (1 if task else self._num_places):
            raise _lost_too_many(name, self._num_lost[name], error) from error
        if task:
            self._waiting.appendleft(task)
        self._add_worker()

    def _node_of_opened(self, outcome: tuple[str, Any, Any, list[str]]) -> str | None:
        """The node of a worker that has been opened; None if it was refused while others work."""
        try:
            node: str = _summary_of(outcome, None)
        except ClmrError as error:
            # Perhaps a node that has just joined; it does not end the work of the others.
            if not self._is_working():
                raise
            _logger.warning("%s", error)
            return None
        self._num_lost[None] = 0
        if len(self._waiting) > 1:
            # For a node that joins later; until then, Ray keeps it waiting.
            self._add_worker()
        return node

    def _give_shard(self, worker: Any, node: str | None) -> None:
        if node and self._waiting:
            task = self._waiting.popleft()
            self._running[worker.run.remote(task.argument)] = worker, node, task
            return
        self._ray.kill(worker)
        if not self._waiting:
            for unneeded in [reference for reference, (_, _, task) in self._running.items() if not task]:
                self._ray.kill(self._running.pop(unneeded)[0])


def _imported_ray(options: ClusterOptions) -> types.ModuleType:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if options.cluster == "auto":
        # Otherwise it tries for minutes to reach a cluster that does not run.
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "3")
    try:
        import ray
    except ImportError as error:
        raise UsageError(f"--cluster needs Ray ({error}); {install_extra('cluster')}.") from error
    return ray


@contextlib.contextmanager
def _connected(ray: types.ModuleType, options: ClusterOptions) -> Iterator[None]:
    """Starts Ray or joins a cluster, and leaves it at the end, which ends all workers."""
    handler = signal.getsignal(signal.SIGTERM)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if options.cluster == "local":
            # Ray creates a token if there is none, so other users of this machine cannot run code in it.
            ray.init("local", num_cpus=num_usable_cores(), include_dashboard=False, **quiet)
            if not _num_places(ray, options):
                raise UsageError(f"This machine is too small for one worker: {_needs(options)}.")
        else:
            try:
                ray.init("auto", **quiet)
            # A RuntimeError if nothing answers at the address.
            except (ConnectionError, RuntimeError, ray.exceptions.AuthenticationError) as error:
                raise UsageError(
                    f"--cluster auto cannot join a Ray cluster ({_first_line(error)}); start one with `ray start "
                    "--head`, set RAY_ADDRESS, or use --cluster local."
                ) from error
        # Ray replaces the handler that lets commands clean up.
        if threading.current_thread() is threading.main_thread():
            restore_signal_handler(signal.SIGTERM, handler)
        yield
    finally:
        ray.shutdown()


def _num_places(ray: types.ModuleType, options: ClusterOptions) -> int:
    """How many workers fit on all nodes if nothing else runs there."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(
        int(min(one.get("CPU", 0) // options.worker_cpus, one.get("memory", 0) // _memory_bytes(options)))
        for one in resources
    )


def _memory_bytes(options: ClusterOptions) -> int:
    return int(options.worker_memory_gb * 1e9)


def _needs(options: ClusterOptions) -> str:
    return (
        f"each needs {options.worker_cpus} CPU cores and {options.worker_memory_gb:g} GB of memory on one node; use a "
        "smaller --worker-cpus or --worker-memory-gb, or add nodes"
    )


def _worker_class() -> type:
    # Ray sends a class that is defined in a function by value, so it also runs on a node whose version of this package
    # does not have it.
    class Worker:
        def open(self, version: str, payload: bytes) -> tuple[str, Any, Any, list[str]]:
            import pickle

            try:
                from clmr_tf import __version__ as found
            except ImportError as error:
                found = f"missing ({error})"
            if found != version:
                sentence = f"Its version of clmr_tf is {found}, not {version}; install the same on all nodes."
                return self._node(), None, (sentence, 2, ""), []

            def start() -> str:
                import ray

                self._run = pickle.loads(payload)()
                return ray.get_runtime_context().get_node_id()

            return self._attempt(start)

        def run(self, argument: Any) -> tuple[str, Any, Any, list[str]]:
            return self._attempt(lambda: self._run(argument))

        def _attempt(self, function: Callable[[], Any]) -> tuple[str, Any, Any, list[str]]:
            import logging
            import traceback

            from clmr_tf.console import describe

            warnings: list[str] = []
            handler = logging.Handler(logging.WARNING)
            handler.emit = lambda record: warnings.append(record.getMessage())
            logging.getLogger().addHandler(handler)
            try:
                return self._node(), function(), None, warnings
            except Exception as error:  # noqa: BLE001 - the receiver gets every error as a sentence
                return self._node(), None, (*describe(error), traceback.format_exc()), warnings
            finally:
                logging.getLogger().removeHandler(handler)

        def _node(self) -> str:
            import socket

            import ray

            return f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"

    return Worker


def _summary_of(outcome: tuple[str, Any, Any, list[str]], name: str | None) -> Any:
    node, summary, failure, warnings = outcome
    for warning in warnings:
        _logger.warning("%s", warning)
    if failure is None:
        return summary
    sentence, exit_code, trace = failure
    what = f"Shard {name} failed on node {node}" if name else f"Node {node} cannot be used"
    error = UsageError if exit_code == UsageError.exit_code else ClmrError
    # --debug prints the cause.
    raise error(f"{what}: {sentence}") from RuntimeError(trace)


def _lost_too_many(name: str | None, num_lost: int, error: Exception) -> ClmrError:
    what = f"Shard {name} ended" if name else "Starting ended"
    return ClmrError(
        f"{what} {num_lost} workers ({_first_line(error)}); use a larger --worker-memory-gb, or leave out --cluster to "
        "see why."
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
