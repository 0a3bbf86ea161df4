"""What all augmentations share: checked arguments, random numbers of a view, and parameters that are drawn
before they are applied.

A view's numbers are a pure function of its seed pair: the batch around it, its row, the number of replicas
or threads change nothing. Each augmentation has numbers of its own, so that leaving one out leaves the
draws of the others as they were.

Values with and without XLA (`jit_compile=True`) differ, as those of all `tf.random.stateless_*` do; the
distributions are the same. One run keeps to one of the two.
"""

import abc
import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import tensorflow as tf

from clmr_tf.config.augmentation import AUGMENTATION_NAMES, Range
from clmr_tf.errors import UsageError

# All numbers of a view come from one op, of a size that will not change when augmentations are added.
NUM_ROWS = 16
NUM_UNIFORMS = 4


class ViewRandomness:
    """The random numbers of a batch of views.

    Args:
        seeds: int32 [batch, 2], a pair per view.

    Raises:
        UsageError: If the seeds are of another type or shape.
    """

    def __init__(self, seeds: tf.Tensor) -> None:
        self._seeds = as_seeds(seeds)

    def uniforms(self, name: str) -> tf.Tensor:
        """Numbers of the augmentation `name`: float32 [batch, NUM_UNIFORMS] in [0, 1), all independent."""
        return self._blocks[:, AUGMENTATION_NAMES.index(name)]

    def seeds(self, name: str) -> tf.Tensor:
        """Seeds of the augmentation `name` for longer draws, such as noise: int32 [batch, 2]."""
        return fold(self._seeds, name)

    @functools.cached_property
    def _blocks(self) -> tf.Tensor:
        return uniform_rows(fold(self._seeds, "parameters"), [NUM_ROWS, NUM_UNIFORMS])


def uniform_rows(seeds: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Uniform numbers in [0, 1), each row a function of its own pair of seeds.

    Args:
        seeds: int32 [batch, 2].
        shape: Of a row.

    Returns:
        float32 [batch, *shape].
    """
    # On a GPU the loop would be hundreds of small kernels, one after the other.
    with tf.device("CPU:0"):
        return tf.map_fn(
            functools.partial(tf.random.stateless_uniform, shape),
            seeds,
            fn_output_signature=tf.TensorSpec(shape, tf.float32),
        )


def fold(seeds: tf.Tensor, purpose: str) -> tf.Tensor:
    """Derives seeds for one purpose, so that two purposes never share random bits.

    Exclusive or with 64 bits of the SHA-256 of the purpose; the generator scrambles the pair afterwards.

    Args:
        seeds: int32 [batch, 2].
        purpose: Any text, the same in every run.

    Returns:
        int32 [batch, 2].
    """
    digest = hashlib.sha256(purpose.encode()).digest()
    words = [int.from_bytes(digest[start : start + 4], "little", signed=True) for start in (0, 4)]
    return tf.bitwise.bitwise_xor(seeds, tf.constant([words], tf.int32))


def choose(numbers: Range, uniforms: tf.Tensor) -> tf.Tensor:
    """Turns uniform numbers into numbers of a range.

    Args:
        numbers: What to choose from; with a step only minimum, minimum + step, ... up to maximum.
        uniforms: float32 [batch] in [0, 1).

    Returns:
        float32 [batch], each value of the range with the same chance.
    """
    minimum, maximum, step = map(float, (numbers.minimum, numbers.maximum, numbers.step))
    if step == 0:
        # Rounding may carry the sum past the end.
        return tf.minimum(minimum + (maximum - minimum) * uniforms, maximum)
    # The tolerance keeps the maximum in where the division falls just short, as in 0.3 / 0.1.
    num_values = math.floor((maximum - minimum) / step + 1e-6) + 1
    return minimum + step * tf.floor(num_values * uniforms)


def as_audio(audio: tf.Tensor) -> tf.Tensor:
    """Returns `audio` as a float32 tensor [batch, samples].

    Raises:
        UsageError: If it is of another type or rank, or known to hold nothing.
    """
    audio = _as_float(audio, "audio", ("batch", "samples"))
    if 0 in audio.shape.as_list():
        raise UsageError(
            f"audio must hold at least one clip of at least one sample; received {audio.shape}, leave it out."
        )
    return audio


def as_parameter(values: tf.Tensor, name: str, audio: tf.Tensor) -> tf.Tensor:
    """Returns `values` as float32 [batch], one for each row of `audio` [batch, samples].

    Raises:
        UsageError: If it is of another type or rank, or known to be of another length.
    """
    values = _as_float(values, name, ("batch",))
    check_batch(values, name, audio)
    return values


def as_seeds(seeds: tf.Tensor) -> tf.Tensor:
    """Returns `seeds` as an int32 tensor [batch, 2].

    Raises:
        UsageError: If it is of another type or shape.
    """
    seeds = tf.convert_to_tensor(seeds)
    if seeds.dtype != tf.int32 or not seeds.shape.is_compatible_with([None, 2]):
        raise UsageError(f"seeds must be int32 [batch, 2], a pair per view; received {seeds.dtype.name} {seeds.shape}.")
    return seeds


def as_augmented(augmented: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
    """Returns `augmented` as a bool tensor [batch], one for each pair of `seeds` [batch, 2].

    Raises:
        UsageError: If it is of another type or rank, or known to be of another length.
    """
    augmented = tf.convert_to_tensor(augmented)
    if augmented.dtype != tf.bool or not augmented.shape.is_compatible_with([None]):
        raise UsageError(
            "augmented must be bool [batch], True for each view that is more than its crop; "
            f"received {augmented.dtype.name} {augmented.shape}."
        )
    check_batch(augmented, "augmented", seeds)
    return augmented


def check_batch(values: tf.Tensor, name: str, audio: tf.Tensor) -> None:
    """Raises UsageError if `values` is known to have another number of rows than `audio`."""
    if not values.shape[:1].is_compatible_with(audio.shape[:1]):
        raise UsageError(
            f"{name} must have one row for each of the {audio.shape[0]} clips; received {values.shape[0]}."
        )


def static_num_samples(audio: tf.Tensor) -> int:
    """The length of the clips in `audio` [batch, samples], for transforms whose length the graph must know.

    Raises:
        UsageError: If it is not known when the graph is built.
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


Parameters = dict[str, tf.Tensor]


class Augmentation(abc.ABC):
    """One augmentation with its settings.

    A subclass names itself, draws its parameters and transforms audio with them. Whether an example is
    augmented at all is a parameter too, `applied`, and belongs to the draw.

    Args:
        probability: Of each view to be augmented.
    """

    name: ClassVar[str]
    """One of AUGMENTATION_NAMES."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def draw(self, randomness: ViewRandomness) -> Parameters:
        """Draws the parameters of a batch of views, a pure function of each view's seeds.

        Returns:
            `applied`, bool [batch], and the parameters of this augmentation, one row per view. They are
            drawn where it is not applied as well.
        """
        uniforms = randomness.uniforms(self.name)
        applied = uniforms[:, 0] < self.probability
        return {"applied": applied, **self.draw_parameters(uniforms[:, 1:], randomness.seeds(self.name))}

    def apply(self, audio: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        """Augments the examples that were chosen; the others come back bit for bit.

        Args:
            audio: float32 [batch, samples].
            parameters: What `draw` returned, or the same by hand.

        Returns:
            float32 [batch, samples].
        """
        return tf.where(parameters["applied"][:, tf.newaxis], self.transform(audio, parameters), audio)

    @abc.abstractmethod
    def draw_parameters(self, uniforms: tf.Tensor, seeds: tf.Tensor) -> Parameters:
        """Makes parameters out of random numbers.

        Args:
            uniforms: float32 [batch, NUM_UNIFORMS - 1] in [0, 1).
            seeds: int32 [batch, 2], this augmentation's own.
        """

    @abc.abstractmethod
    def transform(self, audio: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        """Augments every example, [batch, samples] -> [batch, samples], without randomness of its own."""


class ChosenRowsAugmentation(Augmentation):
    """An augmentation that costs too much to be computed for examples that do not get it."""

    def apply(self, audio: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        """As in the base, on a CPU at a cost in proportion to the number of examples that were chosen."""
        if not is_cpu_alone():
            return super().apply(audio, parameters)
        others = {name: values for name, values in parameters.items() if name != "applied"}
        return transform_chosen(self.transform, audio, others, parameters["applied"])
