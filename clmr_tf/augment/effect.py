"""The interface of augmentations, checks of their arguments, and transforming only selected rows."""

import abc
from collections.abc import Callable
from typing import ClassVar

import tensorflow as tf

from clmr_tf.errors import UsageError

Parameters = dict[str, tf.Tensor]


class Augmentation(abc.ABC):
    """An effect with random parameters.

    A subclass draws the parameters of a batch (`draw_parameters`) and applies them to every row (`transform`). Which
    rows are augmented at all is drawn by the chain and passed on as the parameter `applied`.

    Args:
        probability: Probability that a view is augmented.
    """

    name: ClassVar[str]
    """One of AUGMENTATION_NAMES."""
    is_expensive: ClassVar[bool] = False
    """Whether rows that are not augmented are worth skipping."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    @abc.abstractmethod
    def draw_parameters(self, uniforms: tf.Tensor, seeds: tf.Tensor) -> Parameters:
        """Draws the parameters of a batch, one row per view.

        Args:
            uniforms: float32 [batch, NUM_UNIFORMS - 1] in [0, 1).
            seeds: int32 [batch, 2], this augmentation's own.
        """

    @abc.abstractmethod
    def transform(self, audio: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        """Applies the effect to every row, [batch, samples] -> [batch, samples]; deterministic."""

    def apply(self, audio: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        """Transforms the rows where `applied` is True; the others are returned bit for bit.

        Args:
            audio: float32 [batch, samples].
            parameters: `applied`, bool [batch], and those that `draw_parameters` returns.

        Returns:
            float32 [batch, samples].
        """
        applied = parameters["applied"]
        if not self.is_expensive or not has_only_cpus():
            return tf.where(applied[:, tf.newaxis], self.transform(audio, parameters), audio)
        others = {name: values for name, values in parameters.items() if name != "applied"}
        return transform_selected(self.transform, audio, others, applied)


def has_only_cpus() -> bool:
    """Whether TensorFlow has no device other than CPUs.

    Loops over rows or chunks save work on a CPU. On a GPU they are many small kernels that leave it idle, so there
    augmentations process whole batches.
    """
    return all(device.device_type == "CPU" for device in tf.config.list_logical_devices())


# Large enough to keep the cores busy, small enough that few rows are computed and discarded.
_CHUNK_NUM_ROWS = 8


def transform_selected(
    transform: Callable[[tf.Tensor, Parameters], tf.Tensor],
    audio: tf.Tensor,
    parameters: Parameters,
    selected: tf.Tensor,
) -> tf.Tensor:
    """Transforms the selected rows; the others are returned unchanged, bit for bit, at almost no cost.

    The batch is sorted so that selected rows come first, and cut into chunks of a fixed size, so that all shapes are
    static. Chunks without a selected row are skipped. The last chunk with a selected row may contain others as well: up
    to seven rows of a batch are computed and discarded. Besides copies of the batch itself, memory is used for the
    chunks that `tf.map_fn` computes at the same time, at most ten however large the batch is.

    Args:
        transform: Maps audio [rows, samples] and its parameters to audio of the same shape, row by row.
        audio: float32 [batch, samples].
        parameters: [batch, ...] each.
        selected: bool [batch].

    Returns:
        float32 [batch, samples].
    """
    num_rows = tf.shape(audio)[0]
    # Used for small batches as well: on some processors, sums over chunks of another size round differently.
    chunk_num_rows = _CHUNK_NUM_ROWS
    order = tf.argsort(tf.cast(selected, tf.int32), direction="DESCENDING", stable=True)
    # The last chunk is padded with row 0, whose result there is discarded.
    padded_order = tf.pad(order, [[0, -num_rows % chunk_num_rows]])
    chunks = tf.reshape(padded_order, [-1, chunk_num_rows])

    def transform_chunk(rows: tf.Tensor) -> tf.Tensor:
        clips, selected_in_chunk = tf.gather(audio, rows), tf.gather(selected, rows)

        def transformed() -> tf.Tensor:
            chunk_parameters = {name: tf.gather(values, rows) for name, values in parameters.items()}
            return tf.where(selected_in_chunk[:, tf.newaxis], transform(clips, chunk_parameters), clips)

        # Selected rows come first, so the first row decides.
        return tf.cond(selected_in_chunk[0], transformed, lambda: clips)

    signature = tf.TensorSpec([chunk_num_rows, *audio.shape[1:]], tf.float32)
    views = tf.map_fn(transform_chunk, chunks, fn_output_signature=signature)
    views = tf.reshape(views, [-1, *audio.shape[1:]])
    return tf.ensure_shape(tf.gather(views, tf.math.invert_permutation(order)), audio.shape)


def as_audio(audio: tf.Tensor) -> tf.Tensor:
    """Returns `audio` as a float32 tensor [batch, samples].

    Raises:
        UsageError: If it has another dtype or rank, or is known to be empty.
    """
    audio = _as_float(audio, "audio", ("batch", "samples"))
    if 0 in audio.shape.as_list():
        raise UsageError(
            f"audio must contain at least one clip of at least one sample; received {audio.shape}, skip empty ones."
        )
    return audio


def as_parameter(values: tf.Tensor, name: str, audio: tf.Tensor) -> tf.Tensor:
    """Returns `values` as float32 [batch], one for each row of `audio` [batch, samples].

    Raises:
        UsageError: If it has another dtype or rank, or is known to have another length.
    """
    values = _as_float(values, name, ("batch",))
    check_batch(values, name, audio)
    return values


def as_seeds(seeds: tf.Tensor) -> tf.Tensor:
    """Returns `seeds` as an int32 tensor [batch, 2].

    Raises:
        UsageError: If it has another dtype or shape.
    """
    seeds = tf.convert_to_tensor(seeds)
    if seeds.dtype != tf.int32 or not seeds.shape.is_compatible_with([None, 2]):
        raise UsageError(f"seeds must be int32 [batch, 2], a pair per view; received {seeds.dtype.name} {seeds.shape}.")
    return seeds


def check_batch(values: tf.Tensor, name: str, audio: tf.Tensor) -> None:
    """Raises UsageError if `values` is known to have another number of rows than `audio`."""
    if not values.shape[:1].is_compatible_with(audio.shape[:1]):
        raise UsageError(
            f"{name} must have one row for each of the {audio.shape[0]} clips; received {values.shape[0]}."
        )


def static_num_samples(audio: tf.Tensor) -> int:
    """The length of the clips in `audio` [batch, samples], for transforms that need it when the graph is built.

    Raises:
        UsageError: If it is not static.
    """
    if audio.shape[1] is None:
        raise UsageError("audio must have a length that is known when the graph is built; received [batch, None].")
    return audio.shape[1]


def _as_float(values: tf.Tensor, name: str, axes: tuple[str, ...]) -> tf.Tensor:
    if not tf.is_tensor(values):
        values = tf.convert_to_tensor(values, tf.float32)
    if values.dtype != tf.float32 or not values.shape.is_compatible_with([None] * len(axes)):
        raise UsageError(f"{name} must be float32 [{', '.join(axes)}]; received {values.dtype.name} {values.shape}.")
    return values
