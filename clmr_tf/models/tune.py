"""TUNe: a U-Net with a tail, from raw audio to 512 numbers (Vélez Vásquez and Burgoyne, ISMIR 2022)."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from clmr_tf.models import EMBEDDING_DIM
from clmr_tf.models.clip_encoder import ClipEncoder
from clmr_tf.models.folding import fold_convolution
from clmr_tf.models.layers import BatchNormalization1D, Convolution1D

_BASE_CHANNELS = 11
# Channels in units of the base: contracting part, expanding part, and tail without its last convolution.
_CONTRACTING, _EXPANDING, _TAIL = (1, 2, 4, 8, 16), (8, 4, 2, 1), (2, 4, 8, 16, 32, 32, 32, 32)
_POOL = 3
# The contracting part divides the length by this, and the expanding part multiplies it again.
_LENGTH_FACTOR = _POOL ** (len(_CONTRACTING) - 1)


@keras.saving.register_keras_serializable("clmr_tf")
class TUNe(ClipEncoder):
    """TUNe+: a U-Net over time whose output is contracted once more, with the expanding layers fed into this tail.

    Eighteen convolutions of kernel 3, each followed by batch normalisation and ReLU. Maxima over 3 samples shorten the
    audio: c1 to c5 contract 59,049 samples to 729; c6 to c9 expand them again, each behind a transposed convolution
    (kernel and stride 3) whose output is concatenated with the contracting layer of its length; c10 to c18 contract
    them to 3 frames, of which the embedding is the mean. Before c10, c11, c12 and c13, c8, c7, c6 and c5 are
    concatenated. As in SampleCNN, the convolutions have no bias, and pooling comes before ReLU where nothing else
    reads the unpooled frames. The transposed convolutions have one, which begins at zero.

    At 16,000 Hz the 43,470 samples are padded with 27 zeros to a multiple of 81, and two frames remain; at 8,000 Hz one
    does.

    Call: float [batch, samples] or [batch, samples, 1] in [-1, 1] -> float [batch, 512].

    Args:
        width: Scales the channels of all convolutions but the last one, from 11 to 352 at 1: the first has 11 times
            width, rounded, and the others have multiples of it.
        sample_rate_hz: 22050, 16000 (43,470 samples) or 8000 (20,736 samples).
        seed: Makes the initial weights reproducible (He uniform, as in the paper's code).

    Raises:
        ValueError: For other arguments, and on call for a length that is not accepted.
    """

    _feeds_tail = True

    def __init__(self, width: float = 1.0, sample_rate_hz: int = 22050, seed: int | None = None, **kwargs) -> None:
        super().__init__(width, sample_rate_hz, seed, **kwargs)
        base = max(1, round(_BASE_CHANNELS * width))

        # === Layers ===
        def initializer(number: int) -> keras.initializers.Initializer:
            # This network has more layers than the 16 layer seeds per run seed that other networks use.
            return keras.initializers.HeUniform(None if seed is None else seed * 64 + 32 + number)

        channels = [base * units for units in (*_CONTRACTING, *_EXPANDING, *_TAIL)] + [EMBEDDING_DIM]
        self.convolutions = [
            Convolution1D(
                filters,
                3,
                padding="same",
                use_bias=False,
                kernel_initializer=initializer(number),
                name=f"convolution_{number}",
            )
            for number, filters in enumerate(channels, 1)
        ]
        self.normalizations = [
            BatchNormalization1D(name=f"normalization_{number}") for number in range(1, len(channels) + 1)
        ]
        # Kernel and stride are equal, so a transposed convolution is a dense layer on every frame.
        self.expansions = [
            keras.layers.Dense(
                _POOL * base * units,
                kernel_initializer=initializer(len(channels) + index),
                name=f"expansion_{len(_CONTRACTING) + index}",
            )
            for index, units in enumerate(_EXPANDING, 1)
        ]

    def build(self, input_shape: tuple[int | None, ...] | None = None) -> None:
        """Creates all weights; their shapes do not depend on the input."""
        filters = [convolution.filters for convolution in self.convolutions]
        num_contracting, num_expanding = len(_CONTRACTING), len(_EXPANDING)
        first_of_tail = num_contracting + num_expanding
        inputs = [1, *filters[:-1]]
        for index in range(num_expanding):
            # The transposed convolution and the contracting layer each have as many channels as the result.
            inputs[num_contracting + index] = 2 * filters[num_contracting + index]
            if self._feeds_tail:
                inputs[first_of_tail + index] += filters[first_of_tail - 2 - index]
        for convolution, normalization, channels in zip(self.convolutions, self.normalizations, inputs, strict=True):
            convolution.build((None, None, channels))
            normalization.build((None, None, convolution.filters))
        for index, expansion in enumerate(self.expansions):
            expansion.build((None, None, filters[num_contracting + index - 1]))
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Encodes clips; see the class for shapes."""

        def block(frames: tf.Tensor, index: int, *, pools: bool = False) -> tf.Tensor:
            frames = self.convolutions[index](frames, training=training)
            frames = self.normalizations[index](frames, training=training)
            return tf.nn.relu(_pool(frames) if pools else frames)

        def expand(frames: tf.Tensor, index: int) -> tf.Tensor:
            return self.expansions[index](frames)

        frames = self._network(self._clips(inputs)[..., tf.newaxis], block, expand)
        return tf.reduce_mean(frames, axis=1)

    def folded(self, *, in_8_bits: bool = False) -> Callable[[tf.Tensor], tf.Tensor]:
        """The network at inference without variables."""
        layers = [fold_convolution(*pair) for pair in zip(self.convolutions, self.normalizations, strict=True)]
        expansions = [(layer.kernel.numpy()[np.newaxis, np.newaxis], layer.bias.numpy()) for layer in self.expansions]

        def block(frames: tf.Tensor, index: int, *, pools: bool = False) -> tf.Tensor:
            frames = layers[index](frames)
            return _pool(frames) if pools else frames

        def expand(frames: tf.Tensor, index: int) -> tf.Tensor:
            kernel, bias = expansions[index]
            return tf.nn.conv2d(frames, kernel, 1, "VALID") + bias

        def network(audio: tf.Tensor) -> tf.Tensor:
            frames = self._network(tf.reshape(audio, [-1, 1, self.clip_num_samples, 1]), block, expand)
            return tf.reduce_mean(frames, axis=[1, 2])

        return network

    def _network(
        self, audio: tf.Tensor, block: Callable[..., tf.Tensor], expand: Callable[..., tf.Tensor]
    ) -> tf.Tensor:
        """Connects the layers.

        Args:
            audio: [batch, samples, 1], or images with one row, [batch, 1, samples, 1].
            block: From frames and an index to the convolution of that index, normalised, rectified and perhaps pooled.
            expand: From frames and an index to a transposed convolution: three times the channels, still to be laid out
                over time.

        Returns:
            The frames of the last convolution.
        """
        frames, contracted = _padded(audio), []
        for index in range(len(_CONTRACTING)):
            frames = block(_pool(frames) if index else frames, index)
            contracted.append(frames)
        expanded = [contracted.pop()]
        for index in range(len(_EXPANDING)):
            skipped = contracted.pop()
            wide = _over_time(expand(frames, index), skipped.shape[-1])
            is_last = index == len(_EXPANDING) - 1
            frames = block(tf.concat([wide, skipped], axis=-1), len(_CONTRACTING) + index, pools=is_last)
            expanded.append(frames)
        expanded.pop()
        first_of_tail = len(_CONTRACTING) + len(_EXPANDING)
        for index in range(len(_TAIL)):
            if expanded and self._feeds_tail:
                frames = tf.concat([frames, expanded.pop()], axis=-1)
            frames = block(frames, first_of_tail + index, pools=True)
        return block(frames, first_of_tail + len(_TAIL))


@keras.saving.register_keras_serializable("clmr_tf")
class Tail(TUNe):
    """Tail+5: TUNe whose expanding layers are not fed into the tail; arguments and shapes are the same."""

    _feeds_tail = False


def _pool(frames: tf.Tensor) -> tf.Tensor:
    """The maximum over every three frames: [batch, frames, channels], or images with one row."""
    if frames.shape.rank == 3:
        return tf.nn.max_pool1d(frames, _POOL, _POOL, "VALID")
    return tf.nn.max_pool2d(frames, [1, _POOL], [1, _POOL], "VALID")


def _padded(frames: tf.Tensor) -> tf.Tensor:
    """Appends zeros until the expanding part gives back as many frames as the contracting part was given."""
    num_lacking = -frames.shape[-2] % _LENGTH_FACTOR
    if num_lacking == 0:
        return frames
    before: list[Any] = [[0, 0]] * (frames.shape.rank - 2)
    return tf.pad(frames, [*before, [0, num_lacking], [0, 0]])


def _over_time(frames: tf.Tensor, channels: int) -> tf.Tensor:
    """Lays out the channels of each frame as several frames of `channels`."""
    num_frames = frames.shape[-2] * frames.shape[-1] // channels
    return tf.reshape(frames, [-1, *frames.shape[1:-2], num_frames, channels])
