"""Devices and replicas: which ones train, and what they tell each other."""

import functools
import json
import os
from collections.abc import Callable, Sequence

import tensorflow as tf

from clmr_tf.errors import UsageError


def build_strategy(name: str, num_replicas: int = 0) -> tf.distribute.Strategy:
    """The devices that a run trains on.

    To be called before anything else makes TensorFlow look for devices: several workers have to find each other
    first, and a CPU can only be split before it is used.

    Args:
        name: "single", one device; "mirrored", several of this machine; "multi_worker", all of the machines that
            the environment variable TF_CONFIG names; "auto", the last one for which there is more than one.
        num_replicas: Devices that "mirrored" takes; 0 takes every GPU. Without a GPU, the CPU is split into as many.

    Raises:
        UsageError: If there are no such devices, or TF_CONFIG is not what "multi_worker" needs.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if name == "auto":
        several = num_replicas > 1 or (num_replicas == 0 and len(gpus) > 1)
        name = "multi_worker" if _num_workers_configured() > 1 else "mirrored" if several else "single"
    if name == "single":
        return tf.distribute.get_strategy()
    if name == "multi_worker":
        if _num_workers_configured() == 0:
            raise UsageError(
                "--strategy multi_worker needs the environment variable TF_CONFIG, with the addresses of all workers "
                "and the index of this one; received none."
            )
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


def num_workers(strategy: tf.distribute.Strategy) -> int:
    """Processes that train together; 1 but for "multi_worker"."""
    resolver = strategy.cluster_resolver
    return 1 if resolver is None or not resolver.task_type else len(resolver.cluster_spec().as_dict()["worker"])


def worker_index(strategy: tf.distribute.Strategy) -> int:
    """Which of the processes this one is; the first, 0, is the chief, which alone writes."""
    return strategy.cluster_resolver.task_id if num_workers(strategy) > 1 else 0


def num_replicas_in_sync() -> int:
    """Replicas whose batches are one batch together, seen from the replica that asks; 1 outside of all."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def gather_rows(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Collects the rows of all replicas, in the order of the global batch.

    Every replica must hold the same number of rows. With one replica nothing is copied. The gradient of the
    gathered rows comes back to the replica that each is from, summed over the replicas.

    Args:
        rows: [n, ...] of this replica.

    Returns:
        The rows of all replicas, [replicas * n, ...], and the index of this replica's first row, int32 scalar.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return rows, tf.constant(0)
    first_row = tf.cast(context.replica_id_in_sync_group, tf.int32) * tf.shape(rows)[0]
    return tf.ensure_shape(context.all_gather(rows, axis=0), [None, *rows.shape[1:]]), first_row


def mean_over_replicas(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The mean of each tensor over all replicas, the same on all of them; one exchange for all tensors."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return list(tensors)
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, list(tensors))


def largest_over_workers(strategy: tf.distribute.Strategy, number: int) -> int:
    """The largest of the numbers that the workers call this with; each waits until all have called."""
    if num_workers(strategy) == 1:
        return number
    return int(_largest(strategy)(tf.constant(number, tf.int64)))


@functools.cache
def _largest(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], tf.Tensor]:
    def largest_of_replicas(number: tf.Tensor) -> tf.Tensor:
        return tf.reduce_max(tf.distribute.get_replica_context().all_gather(number[tf.newaxis], axis=0))

    @tf.function
    def largest(number: tf.Tensor) -> tf.Tensor:
        return strategy.experimental_local_results(strategy.run(largest_of_replicas, args=(number,)))[0]

    return largest


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.MirroredStrategy:
    # Two strategies of one process would number their messages alike and take each other's.
    return tf.distribute.MirroredStrategy(devices)


def _num_workers_configured() -> int:
    text = os.environ.get("TF_CONFIG", "").strip()
    if not text:
        return 0
    try:
        workers = json.loads(text)["cluster"]["worker"]
        return len(workers)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            'TF_CONFIG must be JSON such as {"cluster": {"worker": ["host:port", "host:port"]}, "task": {"type": '
            f'"worker", "index": 0}}}}; received {text!r}.'
        ) from error


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
