"""Convolution over time, with a faster gradient on CPUs."""

from collections.abc import Callable

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("clmr_tf")
class Convolution1D(keras.layers.Conv1D):
    """`keras.layers.Conv1D` that computes the gradient of its weights as three matrix products when trained on a CPU.

    TensorFlow's CPU kernel for this gradient reaches a third of the processor's speed on images of one long row and
    takes two fifths of a training step of SampleCNN. With matrix products a step takes 38 % less time in float32 and
    10 % less in bfloat16. Outputs are identical, gradients equal up to rounding.
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Float [batch, time, channels] -> [batch, frames, filters]."""
        shape = (*self.kernel_size, *self.strides, *self.dilation_rate, self.groups, self.padding)
        has_fast_gradient = shape == (3, 1, 1, 1, "same")
        # Exports contain the plain layer, which every runtime supports; GPU kernels are fast as they are.
        if not training or not has_fast_gradient or tf.config.list_physical_devices("GPU"):
            return super().call(inputs)
        outputs = _convolve(inputs, tf.convert_to_tensor(self.kernel))
        return self.activation(outputs + self.bias if self.use_bias else outputs)


_Gradient = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


@tf.custom_gradient
def _convolve(inputs: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, _Gradient]:
    """[batch, time, channels] and [3, channels, filters] -> [batch, time, filters], zero-padded at both ends."""

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        batch, time, channels = tf.unstack(tf.shape(inputs))
        input_gradient = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.stack([batch, 1, time, channels]),
            filter=kernel[tf.newaxis],
            out_backprop=upstream[:, tf.newaxis],
            strides=[1, 1, 1, 1],
            padding="SAME",
        )
        return tf.ensure_shape(input_gradient[:, 0], inputs.shape), _kernel_gradient(inputs, upstream)

    return tf.nn.conv1d(inputs, kernel, 1, "SAME"), gradient


def _kernel_gradient(inputs: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    rows = tf.reshape(inputs, [-1, inputs.shape[-1]])
    upstream_rows = tf.reshape(upstream, [-1, upstream.shape[-1]])

    def product(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
        return tf.matmul(left, right, transpose_a=True)

    # The rows of all clips are one matrix, shifted by one against each other; the pairs across the boundary between two
    # clips are subtracted again.
    before = product(rows[:-1], upstream_rows[1:]) - product(inputs[:-1, -1], upstream[1:, 0])
    after = product(rows[1:], upstream_rows[:-1]) - product(inputs[1:, 0], upstream[:-1, -1])
    return tf.stack([before, product(rows, upstream_rows), after])
