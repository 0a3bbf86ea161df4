"""The network with batch normalisation folded into its convolutions, for other runtimes."""

import dataclasses
from pathlib import Path
from typing import Self

import keras
import numpy as np
import tensorflow as tf

from clmr_tf.export.model_folder import gives_tags, read_head, read_manifest
from clmr_tf.models.batch_normalization import BatchNormalization1D
from clmr_tf.models.heads import Head
from clmr_tf.models.sample_cnn import EMBEDDING_DIM, SampleCNN


@dataclasses.dataclass(frozen=True)
class FoldedHead:
    """Layers with a rectifier between them, and sigmoid or softmax after the last.

    Attributes:
        layers: Of each a matrix float32 [in, out] and an offset float32 [out].
        single_label: Softmax over the tags, which exclude each other; else a sigmoid of each.
        tag_names: Of the outputs.
    """

    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    single_label: bool
    tag_names: tuple[str, ...]

    @classmethod
    def fold(cls, head: Head, single_label: bool, tag_names: tuple[str, ...]) -> Self:
        """Takes mean and deviation of a head into its first matrix and offset."""
        weights = [weight.astype(np.float64) for weight in head.weights]
        weights[0] = weights[0] / head.standard_deviation.astype(np.float64)[:, np.newaxis]
        weights[1] = weights[1] - head.mean.astype(np.float64) @ weights[0]
        in_float32 = [weight.astype(np.float32) for weight in weights]
        return cls(tuple(zip(in_float32[::2], in_float32[1::2], strict=True)), single_label, tag_names)

    @property
    def num_weights(self) -> int:
        """How many numbers a file of this head has to hold."""
        return sum(matrix.size + offset.size for matrix, offset in self.layers)

    def __call__(self, embedding: tf.Tensor, *, as_sums: bool = False) -> tf.Tensor:
        """Embeddings float32 [n, dimensions] -> probabilities float32 [n, tags].

        Args:
            embedding: Of the network before it.
            as_sums: Write the products and their sum one by one, which no converter makes 8-bit integers of.
        """
        hidden = embedding
        for number, (matrix, offset) in enumerate(self.layers):
            hidden = tf.nn.relu(hidden) if number else hidden
            product = tf.reduce_sum(hidden[:, :, tf.newaxis] * matrix, axis=1) if as_sums else hidden @ matrix
            hidden = product + offset
        return tf.nn.softmax(hidden) if self.single_label else tf.sigmoid(hidden)


def read_folded_head(folder: Path) -> FoldedHead | None:
    """The head of a model folder; None if the model gives no tags.

    Raises:
        UsageError: If manifest or head cannot be read.
    """
    if not gives_tags(folder):
        return None
    manifest = read_manifest(folder)
    return FoldedHead.fold(read_head(folder), manifest["single_label"], tuple(manifest["tag_names"]))


# Two frames of silence around a clip, which PyTorch adds whatever the size of the kernel.
_ONE_FRAME_AROUND = [[0, 0], [0, 0], [1, 1], [0, 0]]


@dataclasses.dataclass(frozen=True)
class FoldedLayer:
    """A convolution with the batch normalisation after it inside, a rectifier, and perhaps a pooling.

    Attributes:
        kernel: float32 [1, size, channels before, channels].
        offset: float32 [channels].
        stride: Of the convolution, in frames.
        padding: As `tf.nn.conv2d` takes it.
        pool_size: Frames of which the greatest is kept; 1 keeps all.
    """

    kernel: np.ndarray
    offset: np.ndarray
    stride: int
    padding: str | list[list[int]]
    pool_size: int


class FoldedNetwork:
    """An encoder with its batch normalisations inside of the convolutions.

    Two more things are otherwise than in `SampleCNN`, and give the same numbers. A clip is an image of one row all the
    way, since converters wrap every one-dimensional operation into reshapes. The rectifier comes before the pooling:
    so it is part of the convolution in every runtime, and 8-bit integers have no negative half to cover.

    Args:
        encoder: Built, float32, for clips of exactly `clip_num_samples`.
    """

    def __init__(self, encoder: SampleCNN) -> None:
        self._clip_num_samples = encoder.clip_num_samples
        pools = [1, *(pool.pool_size[0] for pool in encoder.pools), 1]
        self.layers = tuple(
            FoldedLayer(*_fold(convolution, normalization), convolution.strides[0], _padding(convolution, index), pool)
            for index, (convolution, normalization, pool) in enumerate(
                zip(encoder.convolutions, encoder.normalizations, pools, strict=True)
            )
        )

    @property
    def num_weights(self) -> int:
        """How many numbers a file of this network has to hold."""
        return sum(layer.kernel.size + layer.offset.size for layer in self.layers)

    def function(
        self, head: FoldedHead | None = None, *, head_as_sums: bool = False
    ) -> tf.types.experimental.PolymorphicFunction:
        """A function of `audio` float32 [n, clip_num_samples] that gives {"embedding": float32 [n, 512]}.

        Args:
            head: With one, it also gives "tags", float32 [n, tags].
            head_as_sums: As `as_sums` of the head.
        """
        signature = [tf.TensorSpec([None, self._clip_num_samples], tf.float32, name="audio")]

        def network(audio: tf.Tensor) -> dict[str, tf.Tensor]:
            frames = tf.reshape(audio, [-1, 1, self._clip_num_samples, 1])
            for layer in self.layers:
                strides = [1, 1, layer.stride, 1]
                frames = tf.nn.relu(tf.nn.conv2d(frames, layer.kernel, strides, layer.padding) + layer.offset)
                if layer.pool_size > 1:
                    frames = tf.nn.max_pool2d(frames, [1, layer.pool_size], [1, layer.pool_size], "VALID")
            embedding = tf.reshape(frames, [-1, EMBEDDING_DIM])
            return {"embedding": embedding} | ({"tags": head(embedding, as_sums=head_as_sums)} if head else {})

        return tf.function(network, input_signature=signature)


def _fold(convolution: keras.layers.Conv1D, normalization: BatchNormalization1D) -> tuple[np.ndarray, np.ndarray]:
    """Kernel float32 [1, size, channels before, channels] and offset float32 [channels] of the two together."""
    gamma, beta, mean, variance = (
        variable.numpy().astype(np.float64)
        for variable in (
            normalization.gamma,
            normalization.beta,
            normalization.moving_mean,
            normalization.moving_variance,
        )
    )
    scale = gamma / np.sqrt(variance + normalization.epsilon)
    kernel = convolution.kernel.numpy()[np.newaxis] * scale
    return kernel.astype(np.float32), (beta - mean * scale).astype(np.float32)


def _padding(convolution: keras.layers.Conv1D, index: int) -> str | list[list[int]]:
    if convolution.padding == "same":
        return "SAME"
    return _ONE_FRAME_AROUND if index else "VALID"
