"""MelCNN: five convolutions over a log-mel spectrogram, with much less computation than SampleCNN."""

import math
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from clmr_tf.models import EMBEDDING_DIM
from clmr_tf.models.clip_encoder import ClipEncoder, scale_channels
from clmr_tf.models.folding import FoldedConvolution, fold, scale_and_offset
from clmr_tf.models.layers import BatchNormalization1D
from clmr_tf.models.log_mel import LogMel

NUM_BANDS = 64
# 46.4 ms, 46.5 ms and 46.5 ms by sample rate in Hz; frames begin every 23 ms.
WINDOW_NUM_SAMPLES = {22050: 1024, 16000: 744, 8000: 372}
_CHANNELS = (64, 128, 256, 512, 1024)
_POOL = 2


@keras.saving.register_keras_serializable("clmr_tf")
class MelCNN(ClipEncoder):
    """A convolutional network on 64 mel bands, after CNN10 and CNN14 of PANNs (Kong et al. 2020).

    The log-mel spectrogram is a part of the network (`LogMel`, 114 frames of 64 bands at 22,050 Hz). Each band is
    normalised. Five blocks of convolution (3 x 3, zero-padded), batch normalisation, max-pooling (2 x 2) and ReLU leave
    3 frames of 2 bands. The mean over the bands, then the sum of mean and maximum over time, go through a dense layer,
    batch normalisation and ReLU. As in SampleCNN, no layer before a normalisation has a bias, and pooling comes before
    ReLU.

    The spectrogram and the normalisation of the bands are float32 under mixed precision as well, since with 8 bits of
    mantissa, the rounding errors of loud bands would be larger than quiet bands.

    Call: float [batch, samples] or [batch, samples, 1] in [-1, 1] -> float [batch, 512].

    Args:
        width: Scales the channels of the convolutions: 64, 128, 256, 512 and 1,024 at 1, half of them at 0.5. The
            output always has 512.
        sample_rate_hz: 22050, 16000 (43,470 samples) or 8000 (20,736 samples). The bands end at half of it.
        seed: Makes the initial weights reproducible (He uniform).

    Raises:
        ValueError: For other arguments, and on call for a length that is not accepted.
    """

    def __init__(self, width: float = 1.0, sample_rate_hz: int = 22050, seed: int | None = None, **kwargs) -> None:
        # Otherwise Keras would round the audio to 16 bits under mixed precision.
        super().__init__(width, sample_rate_hz, seed, autocast=False, **kwargs)
        self.log_mel = LogMel(sample_rate_hz, WINDOW_NUM_SAMPLES[sample_rate_hz], NUM_BANDS)

        # === Layers ===
        def initializer(index: int) -> keras.initializers.Initializer:
            return keras.initializers.HeUniform(None if seed is None else seed * 16 + index)

        self.front_dtype = keras.config.dtype_policy().variable_dtype
        self.band_normalization = BatchNormalization1D(name="band_normalization", dtype=self.front_dtype)
        self.convolutions = [
            keras.layers.Conv2D(
                scale_channels(channels, width),
                3,
                padding="same",
                use_bias=False,
                kernel_initializer=initializer(index),
                name=f"block_{index}_convolution",
            )
            for index, channels in enumerate(_CHANNELS)
        ]
        self.normalizations = [
            BatchNormalization1D(name=f"block_{index}_normalization") for index in range(len(_CHANNELS))
        ]
        self.embedding = keras.layers.Dense(
            EMBEDDING_DIM, use_bias=False, kernel_initializer=initializer(len(_CHANNELS)), name="embedding"
        )
        self.embedding_normalization = BatchNormalization1D(name="embedding_normalization")

    def build(self, input_shape: tuple[int | None, ...] | None = None) -> None:
        """Creates all weights; their shapes do not depend on the input."""
        self.band_normalization.build((None, None, NUM_BANDS))
        channels = 1
        for convolution, normalization in zip(self.convolutions, self.normalizations, strict=True):
            convolution.build((None, None, None, channels))
            channels = convolution.filters
            normalization.build((None, None, channels))
        self.embedding.build((None, channels))
        self.embedding_normalization.build((None, None, EMBEDDING_DIM))
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Encodes clips; see the class for shapes."""
        bands = self.log_mel(tf.cast(self._clips(inputs), self.front_dtype))
        bands = self.band_normalization(bands, training=training)
        images = tf.cast(bands, self.compute_dtype)[..., tf.newaxis]
        for convolution, normalization in zip(self.convolutions, self.normalizations, strict=True):
            images = _normalized(normalization, convolution(images), training)
            images = tf.nn.relu(tf.nn.max_pool2d(images, _POOL, _POOL, "VALID"))
        outputs = self.embedding(_pooled(images))
        return tf.nn.relu(_normalized(self.embedding_normalization, outputs, training))

    def folded(self, *, in_8_bits: bool = False) -> Callable[[tf.Tensor], tf.Tensor]:
        """The network at inference without variables. The spectrogram is float32 in 8-bit files as well."""
        band_scale, band_offset = (part.astype(np.float32) for part in scale_and_offset(self.band_normalization))
        blocks = [
            FoldedConvolution(*fold(convolution.kernel, normalization))
            for convolution, normalization in zip(self.convolutions, self.normalizations, strict=True)
        ]
        matrix, bias = fold(self.embedding.kernel, self.embedding_normalization)

        def network(audio: tf.Tensor) -> tf.Tensor:
            # No graph optimiser can find out that this is always 0.
            zero = tf.minimum(tf.abs(audio[0, 0]), 0.0) if in_8_bits else None
            images = (self.log_mel(audio, zero) * band_scale + band_offset)[..., tf.newaxis]
            for block in blocks:
                images = tf.nn.max_pool2d(block(images), _POOL, _POOL, "VALID")
            return tf.nn.relu(_pooled(images) @ matrix + bias)

        return network


def _normalized(normalization: BatchNormalization1D, values: tf.Tensor, training: bool) -> tf.Tensor:
    """Normalises [batch, ..., channels] over everything but the channels."""
    *places, channels = values.shape[1:]
    rows = tf.reshape(values, [-1, math.prod(places), channels])
    return tf.reshape(normalization(rows, training=training), [-1, *places, channels])


def _pooled(images: tf.Tensor) -> tf.Tensor:
    """[batch, frames, bands, channels] -> [batch, channels]: the mean over bands, then mean plus maximum over time."""
    frames = tf.reduce_mean(images, axis=2)
    return tf.reduce_mean(frames, axis=1) + tf.reduce_max(frames, axis=1)
