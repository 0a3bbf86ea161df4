"""SampleCNN, the encoder of CLMR: from raw audio to a 512-dimensional representation."""

from collections.abc import Callable

import keras
import tensorflow as tf

from clmr_tf.models import EMBEDDING_DIM
from clmr_tf.models.clip_encoder import ClipEncoder, scale_channels
from clmr_tf.models.folding import fold_convolution
from clmr_tf.models.layers import BatchNormalization1D, Convolution1D

# Pooling factors of the nine blocks by sample rate, which reduce a clip to one frame.
POOL_SIZES = {
    22050: (3, 3, 3, 3, 3, 3, 3, 3, 3),
    16000: (3, 3, 3, 3, 3, 3, 5, 2, 2),
    8000: (3, 3, 3, 2, 2, 4, 4, 2, 2),
}

_STEM_CHANNELS = 128
_BLOCK_CHANNELS = (128, 128, 256, 256, 256, 256, 256, 256)
# PyTorch pads one frame on each side, regardless of the kernel size.
_ONE_FRAME_PER_SIDE = [[0, 0], [0, 0], [1, 1], [0, 0]]


@keras.saving.register_keras_serializable("clmr_tf")
class SampleCNN(ClipEncoder):
    """SampleCNN 3^9 (Lee et al. 2017) as CLMR's released code builds it.

    A strided convolution, nine blocks of convolution, batch normalisation, max-pooling and ReLU, and one more
    convolution. Two differences from the original do not change the outputs: the convolutions have no bias, since the
    batch normalisation after each subtracts it again, and the pooling comes before the ReLU, which then has a third of
    the work.

    Call: float [batch, samples] or [batch, samples, 1] in [-1, 1] -> float [batch, 512]. The default input is
    59,049 samples (2.678 s) at 22,050 Hz.

    Args:
        width: Scales the channels of all layers except the last two; the output always has 512.
        sample_rate_hz: 22050, 16000 (43,470 samples) or 8000 (20,736 samples): the variants of the thesis.
        seed: Makes the initial weights reproducible (He uniform, as in the original's experiments).

    Raises:
        ValueError: For other arguments, and on call for another length.
    """

    def __init__(self, width: float = 1.0, sample_rate_hz: int = 22050, seed: int | None = None, **kwargs) -> None:
        super().__init__(width, sample_rate_hz, seed, **kwargs)

        # === Layers ===
        def convolution(channels: int, size: int, name: str, strides: int = 1, padding: str = "valid") -> keras.Layer:
            layer_seed = None if seed is None else seed * 16 + len(self.convolutions)
            return Convolution1D(
                channels,
                size,
                strides=strides,
                padding=padding,
                use_bias=False,
                kernel_initializer=keras.initializers.HeUniform(layer_seed),
                name=name,
            )

        self.convolutions, self.normalizations, self.pools = [], [], []
        pool_sizes = POOL_SIZES[sample_rate_hz]
        stem_channels, *block_channels, last_channels = layer_channels(width)
        self.convolutions.append(convolution(stem_channels, 3, "stem_convolution", strides=3))
        for index, (channels, size) in enumerate(zip(block_channels, pool_sizes, strict=True)):
            # PyTorch pads one sample on each side for every kernel size, which is "same" for size 3 only.
            padding = "same" if size == 3 else "valid"
            self.convolutions.append(convolution(channels, size, f"block_{index}_convolution", padding=padding))
            self.pools.append(keras.layers.MaxPooling1D(size, name=f"block_{index}_pool"))
        self.convolutions.append(convolution(last_channels, 3, "last_convolution", padding="same"))
        for layer in self.convolutions:
            name = layer.name.replace("convolution", "normalization")
            self.normalizations.append(BatchNormalization1D(name=name))

    def build(self, input_shape: tuple[int | None, ...] | None = None) -> None:
        """Creates all weights; their shapes do not depend on the input."""
        channels = 1
        for convolution, normalization in zip(self.convolutions, self.normalizations, strict=True):
            convolution.build((None, None, channels))
            channels = convolution.filters
            normalization.build((None, None, channels))
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Encodes clips; see the class for shapes."""
        frames = self._clips(inputs)[..., tf.newaxis]
        frames = self.convolutions[0](frames, training=training)
        frames = tf.nn.relu(self.normalizations[0](frames, training=training))
        for convolution, normalization, pool in zip(
            self.convolutions[1:-1], self.normalizations[1:-1], self.pools, strict=True
        ):
            if convolution.padding == "valid":
                frames = tf.pad(frames, [[0, 0], [1, 1], [0, 0]])
            frames = tf.nn.relu(pool(normalization(convolution(frames, training=training), training=training)))
        frames = self.convolutions[-1](frames, training=training)
        frames = tf.nn.relu(self.normalizations[-1](frames, training=training))
        return tf.squeeze(frames, 1)

    def folded(self, *, in_8_bits: bool = False) -> Callable[[tf.Tensor], tf.Tensor]:
        """The network at inference without variables; takes exactly one clip."""
        pool_sizes = [1, *(pool.pool_size[0] for pool in self.pools), 1]
        layers = []
        for index, (convolution, normalization) in enumerate(zip(self.convolutions, self.normalizations, strict=True)):
            padding = "SAME" if convolution.padding == "same" else _ONE_FRAME_PER_SIDE if index else "VALID"
            layers.append(fold_convolution(convolution, normalization, padding))

        def network(audio: tf.Tensor) -> tf.Tensor:
            frames = tf.reshape(audio, [-1, 1, self.clip_num_samples, 1])
            for layer, pool_size in zip(layers, pool_sizes, strict=True):
                frames = layer(frames)
                if pool_size > 1:
                    frames = tf.nn.max_pool2d(frames, [1, pool_size], [1, pool_size], "VALID")
            return tf.reshape(frames, [-1, EMBEDDING_DIM])

        return network


def layer_channels(width: float) -> tuple[int, ...]:
    """Output channels of the eleven convolutions: the stem, the nine blocks and the last one."""
    scaled = (scale_channels(channels, width) for channels in (_STEM_CHANNELS, *_BLOCK_CHANNELS))
    return (*scaled, EMBEDDING_DIM, EMBEDDING_DIM)
