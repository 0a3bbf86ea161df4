"""Transforming only some rows of a batch, with static shapes: on a CPU, where leaving rows out saves their time."""

from collections.abc import Callable

import tensorflow as tf

# Large enough to keep the cores busy, small enough that few rows are computed in vain.
_CHUNK_NUM_ROWS = 8


def is_cpu_alone() -> bool:
    """Whether TensorFlow has no device but CPUs.

    With any other, augmentations take the whole batch at a time: a loop over rows or chunks of them saves work on a
    CPU, but on a GPU it is many small kernels that leave the GPU idle.
    """
    return all(device.device_type == "CPU" for device in tf.config.list_logical_devices())


def transform_chosen(
    transform: Callable[[tf.Tensor, dict[str, tf.Tensor]], tf.Tensor],
    audio: tf.Tensor,
    parameters: dict[str, tf.Tensor],
    chosen: tf.Tensor,
) -> tf.Tensor:
    """Applies a transformation to the chosen rows; the others come back bit for bit and cost next to nothing.

    The chosen rows are brought to the front and the batch is cut into chunks of a fixed size; chunks without a
    chosen row are left out. So every shape is static. The last chunk with a chosen row may have others as well: up to
    seven rows of a batch are computed in vain. Beside copies of the batch itself, the memory in use is that of the
    chunks which `tf.map_fn` computes at a time, at most ten however large the batch is.

    Args:
        transform: Takes audio [rows, samples] and its parameters, gives audio of the same shape; every row depends
            on its own row and parameters only.
        audio: float32 [batch, samples].
        parameters: [batch, ...] each.
        chosen: bool [batch].

    Returns:
        float32 [batch, samples].
    """
    num_rows = tf.shape(audio)[0]
    # In small batches as well: sums over chunks of another size round differently on some processors.
    chunk_num_rows = _CHUNK_NUM_ROWS
    order = tf.argsort(tf.cast(chosen, tf.int32), direction="DESCENDING", stable=True)
    # The last chunk is filled up with row 0, and what becomes of it there is thrown away.
    filled_order = tf.pad(order, [[0, -num_rows % chunk_num_rows]])
    chunks = tf.reshape(filled_order, [-1, chunk_num_rows])

    def transform_chunk(rows: tf.Tensor) -> tf.Tensor:
        clips, chosen_here = tf.gather(audio, rows), tf.gather(chosen, rows)

        def transformed() -> tf.Tensor:
            here = {name: tf.gather(values, rows) for name, values in parameters.items()}
            return tf.where(chosen_here[:, tf.newaxis], transform(clips, here), clips)

        # The first row decides, since chosen ones come first.
        return tf.cond(chosen_here[0], transformed, lambda: clips)

    signature = tf.TensorSpec([chunk_num_rows, *audio.shape[1:]], tf.float32)
    views = tf.map_fn(transform_chunk, chunks, fn_output_signature=signature)
    views = tf.reshape(views, [-1, *audio.shape[1:]])
    return tf.ensure_shape(tf.gather(views, tf.math.invert_permutation(order)), audio.shape)
