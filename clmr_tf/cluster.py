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
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar

from clmr_tf import __version__
from clmr_tf.console import restore_signal_handler
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.hardware import num_usable_cores

Shard = TypeVar("Shard")
Summary = TypeVar("Summary")

_logger = logging.getLogger(__name__)

# A node may be lost at any time; a shard that has lost so many workers is considered the cause.
_MAX_LOST_WORKERS = 4
_SECONDS_BETWEEN_WARNINGS = 30.0
# Only summaries pass through Ray's memory, and this is about the smallest size that it accepts.
_OBJECT_STORE_BYTES = 100_000_000


@dataclasses.dataclass(frozen=True)
class ClusterOptions:
    """Where the shards of a command run."""

    cluster: Literal["none", "local", "auto"] = "none"
    """none: in this process. local: start Ray on this machine. auto: join the running Ray cluster, that of RAY_ADDRESS
    if it is set. All nodes need the same paths and the same version of this package."""
    worker_cpus: int = 1
    """CPU cores that each worker on the cluster reserves and uses."""
    worker_memory_gb: float = 2.0
    """Memory that each worker on the cluster reserves, in GB."""

    def __post_init__(self) -> None:
        """Raises UsageError for invalid values."""
        if self.worker_cpus < 1:
            raise UsageError(f"--worker-cpus must be at least 1; received {self.worker_cpus}.")
        if not self.worker_memory_gb > 0:
            raise UsageError(f"--worker-memory-gb must be more than 0; received {self.worker_memory_gb:g}.")


def run_on_cluster(
    options: ClusterOptions, open_worker: Callable[[], Callable[[Shard], Summary]], shards: Sequence[Shard]
) -> Iterator[Summary]:
    """Runs shards on a Ray cluster and yields their summaries as they finish.

    Close the iterator (`contextlib.closing`) to end the workers early; what their shards have not finished is left as
    after a kill.

    Args:
        options: "local" or "auto", and what each worker reserves.
        open_worker: Called once in each worker; returns the function that does a shard. It must be picklable, and so
            must the shards and their summaries. `str(shard)` is used in messages.
        shards: The shards, in the order in which they are started.

    Raises:
        UsageError: If Ray is not installed, no cluster runs, no worker fits on this machine, or a node has another
            version of this package.
        ClmrError: If a worker fails, which is not repeated, or a shard loses four workers.
    """
    ray = _imported_ray()
    with _connected(ray, options):
        worker_class = ray.remote(
            num_cpus=options.worker_cpus,
            memory=int(options.worker_memory_gb * 1e9),
            scheduling_strategy="SPREAD",
        )(_worker_class())
        payload = ray.cloudpickle.dumps(open_worker)
        waiting = collections.deque(shards)
        num_lost: collections.Counter[Shard | None] = collections.Counter()
        # What each worker does: a shard, or None while it waits for a place and is opened.
        running: dict[Any, tuple[Any, Shard | None]] = {}

        def add_worker() -> None:
            worker = worker_class.remote()
            running[worker.open.remote(__version__, payload)] = worker, None

        # Ray keeps those for which there is no room until another one ends or a node joins.
        for _ in shards:
            add_worker()
        while waiting or any(shard is not None for _, shard in running.values()):
            done, _ = ray.wait(list(running), timeout=_SECONDS_BETWEEN_WARNINGS)
            if not done:
                if all(shard is None for _, shard in running.values()):
                    _warn_that_none_runs(ray, options)
                continue
            worker, shard = running.pop(done[0])
            try:
                node, summary, failure = ray.get(done[0])
            except ray.exceptions.RayError as error:
                ray.kill(worker)
                num_lost[shard] += 1
                if num_lost[shard] >= (_MAX_LOST_WORKERS if shard is not None else _MAX_LOST_WORKERS * len(shards)):
                    what = "Workers" if shard is None else f"The workers of shard {shard}"
                    raise ClmrError(
                        f"{what} ended {num_lost[shard]} times ({_first_line(error)}); use a larger "
                        "--worker-memory-gb, or run the shard without --cluster to see why."
                    ) from error
                if shard is not None:
                    waiting.appendleft(shard)
                add_worker()
                continue
            if failure is not None:
                raise _error_of(failure, node, shard)
            if shard is not None:
                yield summary
            if waiting:
                shard = waiting.popleft()
                running[worker.run.remote(shard)] = worker, shard
            else:
                # Others can use its place, and those that still wait for one are not needed.
                ray.kill(worker)
                for unused in [reference for reference, (_, shard) in running.items() if shard is None]:
                    ray.kill(running.pop(unused)[0])


def _imported_ray() -> types.ModuleType:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Without this, Ray warns that it hides the GPUs from workers that do not reserve one.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError(f"--cluster needs Ray ({error}); run `pip install 'clmr_tf[cluster]'`.") from error
    return ray


@contextlib.contextmanager
def _connected(ray: types.ModuleType, options: ClusterOptions) -> Iterator[None]:
    """Starts Ray or joins a cluster, and leaves it at the end, which kills all workers."""
    handler = signal.getsignal(signal.SIGTERM)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if options.cluster == "local":
            # Other users of this machine could run code in a cluster without a token.
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            num_cpus = num_usable_cores()
            if options.worker_cpus > num_cpus:
                raise UsageError(
                    f"--worker-cpus must be at most {num_cpus}, the cores of this machine; received "
                    f"{options.worker_cpus}."
                )
            ray.init(
                "local",
                num_cpus=num_cpus,
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                **quiet,
            )
        else:
            try:
                ray.init("auto", **quiet)
            except ConnectionError as error:
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


def _worker_class() -> type:
    # Ray sends a class that is defined in a function by value, so it also runs on a node whose version of this package
    # does not have it.
    class Worker:
        def open(self, version: str, payload: bytes) -> tuple[str, None, Any]:
            import pickle

            try:
                from clmr_tf import __version__ as found
            except ImportError as error:
                found = f"none ({error})"
            if found != version:
                sentence = f"Its version of clmr_tf is {found}, not {version}; install the same on all nodes."
                return self._node(), None, (sentence, 2, "")

            def start() -> None:
                self._run = pickle.loads(payload)()

            return self._attempt(start)

        def run(self, shard: Any) -> tuple[str, Any, Any]:
            return self._attempt(lambda: self._run(shard))

        def _attempt(self, function: Callable[[], Any]) -> tuple[str, Any, Any]:
            import traceback

            from clmr_tf.console import describe

            try:
                return self._node(), function(), None
            except Exception as error:  # noqa: BLE001 - the receiver gets every error as a sentence
                return self._node(), None, (*describe(error), traceback.format_exc())

        def _node(self) -> str:
            import socket

            import ray

            return f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"

    return Worker


def _error_of(failure: tuple[str, int, str], node: str, shard: object) -> ClmrError:
    sentence, exit_code, trace = failure
    what = f"Node {node} cannot be used" if shard is None else f"Shard {shard} failed on node {node}"
    error = (UsageError if exit_code == UsageError.exit_code else ClmrError)(f"{what}: {sentence}")
    error.__cause__ = RuntimeError(trace)
    return error


def _warn_that_none_runs(ray: types.ModuleType, options: ClusterOptions) -> None:
    num_nodes = sum(node["Alive"] for node in ray.nodes())
    _logger.warning(
        "No worker has a place: each needs %d cores and %g GB of memory, which none of the %d nodes has free; wait, "
        "add a node, or use a smaller --worker-cpus or --worker-memory-gb.",
        options.worker_cpus,
        options.worker_memory_gb,
        num_nodes,
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
