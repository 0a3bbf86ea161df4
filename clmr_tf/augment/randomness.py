"""The random numbers of a view, and ranges drawn from them.

A view's numbers are a pure function of its seed pair: they do not depend on the rest of the batch, its row, or the
number of replicas or threads. Each augmentation has its own numbers, so leaving one out does not change the draws of
the others.

With XLA (`jit_compile=True`) the values differ from those without, as for all `tf.random.stateless_*`; the
distributions are the same. A run always uses only one of them.
"""

import functools
import hashlib
import math
from collections.abc import Sequence

import tensorflow as tf

from clmr_tf.config.augmentation import AUGMENTATION_NAMES, Range

# All numbers of a view come from one op whose size must not change when augmentations are added.
NUM_ROWS = 16
NUM_UNIFORMS = 4


class ViewRandomness:
    """The random numbers of a batch of views.

    Args:
        seeds: int32 [batch, 2], a pair per view.
    """

    def __init__(self, seeds: tf.Tensor) -> None:
        self._seeds = seeds

    def uniforms(self, name: str) -> tf.Tensor:
        """Numbers of the augmentation `name`: float32 [batch, NUM_UNIFORMS] in [0, 1), all independent."""
        return self._blocks[:, AUGMENTATION_NAMES.index(name)]

    def seeds(self, name: str) -> tf.Tensor:
        """Seeds of the augmentation `name` for longer draws, such as noise: int32 [batch, 2]."""
        return fold_in(self._seeds, name)

    @functools.cached_property
    def _blocks(self) -> tf.Tensor:
        return uniform_rows(fold_in(self._seeds, "parameters"), [NUM_ROWS, NUM_UNIFORMS])


def uniform_rows(seeds: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Uniform numbers in [0, 1), each row a function of its own seed pair.

    Args:
        seeds: int32 [batch, 2].
        shape: Shape of a row.

    Returns:
        float32 [batch, *shape].
    """
    # On a GPU the loop would be hundreds of small kernels in sequence.
    with tf.device("CPU:0"):
        return tf.map_fn(
            functools.partial(tf.random.stateless_uniform, shape),
            seeds,
            fn_output_signature=tf.TensorSpec(shape, tf.float32),
        )


def fold_in(seeds: tf.Tensor, purpose: str) -> tf.Tensor:
    """Derives seeds for one purpose; two purposes never share random bits.

    The seeds are XORed with 64 bits of the SHA-256 of the purpose; the generator scrambles the pair afterwards.

    Args:
        seeds: int32 [batch, 2].
        purpose: Any text, the same in every run.

    Returns:
        int32 [batch, 2].
    """
    digest = hashlib.sha256(purpose.encode()).digest()
    words = [int.from_bytes(digest[start : start + 4], "little", signed=True) for start in (0, 4)]
    return tf.bitwise.bitwise_xor(seeds, tf.constant([words], tf.int32))


def sample_range(values: Range, uniforms: tf.Tensor) -> tf.Tensor:
    """Maps uniform numbers to values of a range, each with the same probability.

    Args:
        values: With a step, only minimum, minimum + step, ... up to maximum.
        uniforms: float32 [batch] in [0, 1).

    Returns:
        float32 [batch].
    """
    minimum, maximum, step = map(float, (values.minimum, values.maximum, values.step))
    if step == 0:
        # Rounding may push the sum above the maximum.
        return tf.minimum(minimum + (maximum - minimum) * uniforms, maximum)
    # The tolerance keeps the maximum if the result of the division is slightly too small, as in 0.3 / 0.1.
    num_values = math.floor((maximum - minimum) / step + 1e-6) + 1
    return minimum + step * tf.floor(num_values * uniforms)
