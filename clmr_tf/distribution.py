"""Devices and replicas: which ones train, and what they tell each other."""

import contextlib
import functools
import signal
import threading
from collections.abc import Callable, Iterator

import tensorflow as tf

from clmr_tf.cluster import configured_cluster
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.rendezvous import meet
from clmr_tf.time_limit import time_limit


def build_strategy(name: str, num_replicas: int = 0, timeout_seconds: float = 600.0) -> tf.distribute.Strategy:
    """The devices that a run trains on.

    To be called before anything else makes TensorFlow look for devices: several workers have to find each other
    first, and a CPU can only be split before it is used.

    Args:
        name: "single", one device; "mirrored", several of this machine; "multi_worker", all of the machines that
            the environment variable TF_CONFIG names; "auto", the last one for which there is more than one.
        num_replicas: Devices that "mirrored" takes; 0 takes every GPU. Without a GPU, the CPU is split into as many.
        timeout_seconds: How long several workers wait for each other, and then for TensorFlow to connect them; it
            ends the process if that takes longer.

    Raises:
        UsageError: If there are no such devices, or TF_CONFIG is not what "multi_worker" needs.
        ClmrError: If not all workers come in time.
    """
    cluster = configured_cluster() if name in ("auto", "multi_worker") else None
    num_processes = len(cluster.addresses) if cluster else 0
    gpus = tf.config.list_physical_devices("GPU")
    if name == "auto":
        several = num_replicas > 1 or (num_replicas == 0 and len(gpus) > 1)
        name = "multi_worker" if num_processes > 1 else "mirrored" if several else "single"
    if name == "single":
        return tf.distribute.get_strategy()
    if name == "multi_worker":
        if cluster is None:
            raise UsageError(
                "--strategy multi_worker needs the environment variable TF_CONFIG, with the addresses of all workers "
                "and the index of this one; received none."
            )
        if num_processes > 1:
            meet(cluster, timeout_seconds)
        unconnected = (
            f"TensorFlow could not connect the workers within {timeout_seconds:g} seconds after all had come, so one "
            "of them has left; see what it said, and start all again."
        )
        with _kept_signal_handler(), time_limit(timeout_seconds, unconnected):
            return tf.distribute.MultiWorkerMirroredStrategy()
    count = num_replicas or len(gpus)
    if count == 0:
        raise UsageError(
            "--strategy mirrored finds no GPU; --num-replicas 2 splits the CPU in two, --strategy single does not."
        )
    if gpus and count > len(gpus):
        raise UsageError(f"--num-replicas must be at most {len(gpus)}, the GPUs of this machine; received {count}.")
    kind = "GPU" if gpus else "CPU"
    if not gpus:
        _split_cpu(count)
    return _mirrored(tuple(f"{kind}:{index}" for index in range(count)))


@contextlib.contextmanager
def _kept_signal_handler() -> Iterator[None]:
    """Brings back who handles SIGTERM: TensorFlow puts a handler of its own in its place, which does nothing for us."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # None where it was not set from Python; and only the main thread may set one.
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def num_workers(strategy: tf.distribute.Strategy) -> int:
    """Processes that train together; 1 but for "multi_worker"."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return 1
    return sum(len(addresses) for addresses in resolver.cluster_spec().as_dict().values())


def worker_index(strategy: tf.distribute.Strategy) -> int:
    """Which of the processes this one is; the first, 0, is the chief, which alone writes."""
    if num_workers(strategy) == 1:
        return 0
    resolver = strategy.cluster_resolver
    num_chiefs = len(resolver.cluster_spec().as_dict().get("chief", ()))
    return resolver.task_id + (num_chiefs if resolver.task_type == "worker" else 0)


def describe_devices(strategy: tf.distribute.Strategy) -> dict[str, object]:
    """What "auto" came to, as JSON data: the strategy by the name that `build_strategy` takes, replicas and workers."""
    kind = "mirrored" if isinstance(strategy, tf.distribute.MirroredStrategy) else "single"
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        kind = "multi_worker"
    return {"strategy": kind, "num_replicas": strategy.num_replicas_in_sync, "num_workers": num_workers(strategy)}


def gather_over_workers(strategy: tf.distribute.Strategy, number: int) -> list[int]:
    """The numbers that the workers call this with, one for each replica; each waits until all have called.

    Raises:
        ClmrError: If another worker does not call any more.
    """
    if num_workers(strategy) == 1:
        return [number]
    try:
        return [int(each) for each in _gather(strategy)(tf.constant(number, tf.int64))]
    except tf.errors.OpError as error:
        raise ClmrError(
            "Another worker has left; see what it said, and start all workers again, which resumes the run."
        ) from error


def largest_over_workers(strategy: tf.distribute.Strategy, number: int) -> int:
    """The largest of the numbers that the workers call this with; each waits until all have called."""
    return max(gather_over_workers(strategy, number))


@functools.cache
def _gather(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], tf.Tensor]:
    def gather_of_replicas(number: tf.Tensor) -> tf.Tensor:
        return tf.distribute.get_replica_context().all_gather(number[tf.newaxis], axis=0)

    @tf.function(autograph=False)
    def gather(number: tf.Tensor) -> tf.Tensor:
        return strategy.experimental_local_results(strategy.run(gather_of_replicas, args=(number,)))[0]

    return gather


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.MirroredStrategy:
    # Two strategies of one process would number their messages alike and take each other's.
    return tf.distribute.MirroredStrategy(devices)


def _split_cpu(count: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except (RuntimeError, ValueError):
        # TensorFlow is in use already, and what it was split into then is what there is.
        found = len(tf.config.list_logical_devices("CPU"))
        if found < count:
            raise UsageError(
                f"--num-replicas must be at most {found} in a process that has used the CPU before; received {count}."
            ) from None
