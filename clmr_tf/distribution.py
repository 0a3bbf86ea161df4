"""The only file that names replicas."""

import tensorflow as tf


def gather_rows(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Collects the rows of all replicas, in the order of the global batch.

    Every replica must hold the same number of rows. With one replica nothing is copied.

    Args:
        rows: [n, ...] of this replica.

    Returns:
        The rows of all replicas, [replicas * n, ...], and the index of this replica's first row, int32 scalar.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return rows, tf.constant(0)
    first_row = tf.cast(context.replica_id_in_sync_group, tf.int32) * tf.shape(rows)[0]
    return context.all_gather(rows, axis=0), first_row
