"""Communication between replicas within a step."""

from collections.abc import Sequence

import tensorflow as tf


def num_replicas_in_sync() -> int:
    """The number of replicas that share a batch, when called in a replica; 1 outside of one."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def gather_rows(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Gathers the rows of all replicas, in the order of the global batch.

    Every replica must hold the same number of rows. With one replica nothing is copied. The gradient of a gathered row
    goes to the replica that it came from, summed over the replicas.

    Args:
        rows: Rows of this replica, [n, ...].

    Returns:
        The rows of all replicas, [replicas * n, ...], and the index of this replica's first row, int32 scalar.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return rows, tf.constant(0)
    first_row = tf.cast(context.replica_id_in_sync_group, tf.int32) * tf.shape(rows)[0]
    return tf.ensure_shape(context.all_gather(rows, axis=0), [None, *rows.shape[1:]]), first_row


def mean_over_replicas(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The mean of each tensor over all replicas, on all of them; one all-reduce for all tensors."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return list(tensors)
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, list(tensors))


def sum_over_replicas(tensor: tf.Tensor) -> tf.Tensor:
    """The sum of a tensor over all replicas, on all of them."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tensor
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensor)


def moments_over_replicas(values: tf.Tensor, axes: Sequence[int]) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance over `axes` and all replicas, which must hold the same number of values.

    Combines the variance of each replica around its own mean, in one all-gather. The mean of squares minus the square
    of the mean would lose digits where the mean is large.
    """
    own_moments = tf.stack(tf.nn.moments(values, axes))
    moments, _ = gather_rows(own_moments[tf.newaxis])
    means, variances = moments[:, 0], moments[:, 1]
    mean = tf.reduce_mean(means, 0)
    return mean, tf.reduce_mean(variances + tf.math.squared_difference(means, mean), 0)
