"""Batch normalisation folded into the layer before it, for converters to other runtimes."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from clmr_tf.models.layers import BatchNormalization1D

Padding = str | list[list[int]]


@dataclasses.dataclass(frozen=True)
class FoldedConvolution:
    """A convolution with folded batch normalisation, and ReLU.

    Attributes:
        kernel: float32 [height, width, in, out]; a convolution over time has one row.
        bias: float32 [out].
        stride: Stride in frames.
        padding: As for `tf.nn.conv2d`.
    """

    kernel: np.ndarray
    bias: np.ndarray
    stride: int = 1
    padding: Padding = "SAME"

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """float32 [n, rows, frames, in] -> float32 [n, rows, frames, out]."""
        strides = [1, 1, self.stride, 1]
        # ReLU comes before pooling: every runtime then fuses it into the convolution, and 8-bit integers need no
        # negative range.
        return tf.nn.relu(tf.nn.conv2d(images, self.kernel, strides, self.padding) + self.bias)


def fold(kernel: keras.Variable, normalization: BatchNormalization1D) -> tuple[np.ndarray, np.ndarray]:
    """Combines the weights of a layer without bias with the normalisation of its outputs.

    Args:
        kernel: [..., in, out].
        normalization: Normalisation of the outputs, at inference.

    Returns:
        Kernel float32 [..., in, out] and bias float32 [out].
    """
    scale, offset = scale_and_offset(normalization)
    return (kernel.numpy() * scale).astype(np.float32), offset.astype(np.float32)


def fold_convolution(
    convolution: keras.layers.Conv1D, normalization: BatchNormalization1D, padding: Padding = "SAME"
) -> FoldedConvolution:
    """Folds the normalisation of its outputs into a convolution over time, for images with one row.

    Args:
        convolution: A convolution without bias.
        normalization: Normalisation of its outputs.
        padding: As for `tf.nn.conv2d`.
    """
    kernel, bias = fold(convolution.kernel, normalization)
    return FoldedConvolution(kernel[np.newaxis], bias, convolution.strides[0], padding)


def scale_and_offset(normalization: BatchNormalization1D) -> tuple[np.ndarray, np.ndarray]:
    """What a normalisation multiplies by and then adds at inference, float64 [channels] each."""
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
    return scale, beta - mean * scale
