"""Two layers over time: convolution, with a faster gradient on CPUs, and batch normalisation, equal to PyTorch's."""

from collections.abc import Callable

import keras
import tensorflow as tf

from clmr_tf.models.replicas import moments_over_replicas, num_replicas_in_sync, sum_over_replicas


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
        # Exports contain the plain layer, which every runtime supports; GPU kernels are fast already.
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


@keras.saving.register_keras_serializable("clmr_tf")
class BatchNormalization1D(keras.layers.Layer):
    """Normalises [batch, time, channels] over batch and time.

    Equal to `torch.nn.BatchNorm1d`: epsilon 1e-5, running statistics that move by a tenth per step, and a running
    variance with Bessel's correction (Keras' layer: 1e-3, a hundredth, and none). On one replica the batch statistics
    come from the fused kernel, which makes a CPU training step about a fifth faster than the separate moments of
    Keras' layer. With several replicas they are the statistics of all inputs together. Statistics and parameters are
    float32 under mixed precision as well. A batch whose statistics are not finite does not change the running ones.
    """

    epsilon = 1e-5
    momentum = 0.9
    """Fraction of the running statistics that a step keeps."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates scale, offset and the two running statistics, [channels] each."""
        shape = (input_shape[-1],)

        def variable(name: str, initializer: str, trainable: bool = True) -> keras.Variable:
            # Without autocast, or mixed precision would pass bfloat16 statistics to the kernel.
            return self.add_weight(
                name=name,
                shape=shape,
                initializer=initializer,
                trainable=trainable,
                autocast=False,
                # Only the running statistics change within a step, and they are the same on all replicas.
                aggregation="none" if trainable else "only_first_replica",
            )

        self.gamma = variable("gamma", "ones")
        self.beta = variable("beta", "zeros")
        self.moving_mean = variable("moving_mean", "zeros", trainable=False)
        self.moving_variance = variable("moving_variance", "ones", trainable=False)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the normalised inputs; in training also updates the running statistics."""
        if not training:
            scale = self.gamma * tf.math.rsqrt(self.moving_variance + self.epsilon)
            offset = self.beta - self.moving_mean * scale
            return inputs * tf.cast(scale, inputs.dtype) + tf.cast(offset, inputs.dtype)
        # There is no fused kernel for float64.
        is_fused = num_replicas_in_sync() == 1 and inputs.dtype != tf.float64
        normalize = self._normalize_fused if is_fused else self._normalize_synchronized
        outputs, mean, variance = normalize(inputs)
        is_finite = tf.reduce_all(tf.math.is_finite(mean) & tf.math.is_finite(variance))
        for statistic, batch_value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moved = self.momentum * statistic + (1.0 - self.momentum) * batch_value
            statistic.assign(tf.where(is_finite, moved, statistic))
        return outputs

    def _normalize_fused(self, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # The kernel takes images; one row of `time` pixels is the same memory.
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=tf.expand_dims(inputs, 1),
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        return tf.squeeze(outputs, 1), mean, variance

    def _normalize_synchronized(self, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # `_normalized` has the gradient through the statistics, without float32 copies for the backward pass.
        frames = tf.cast(tf.stop_gradient(inputs), self.variable_dtype)
        mean, variance = moments_over_replicas(frames, [0, 1])
        # An int64, since a thousand views have more than 2^31 values in the first layer.
        num_values = tf.size(frames, out_type=tf.int64) // frames.shape[-1] * num_replicas_in_sync()
        count = tf.cast(num_values, frames.dtype)
        scale_and_offset = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        outputs = _normalized(inputs, *scale_and_offset, mean, tf.math.rsqrt(variance + self.epsilon), count)
        return outputs, mean, variance * count / (count - 1.0)


@tf.custom_gradient
def _normalized(
    inputs: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    mean: tf.Tensor,
    inverse_standard_deviation: tf.Tensor,
    count: tf.Tensor,
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor | None, ...]]]:
    """Normalises by the statistics of all replicas' inputs; the gradient includes that through the statistics.

    Only the inputs are kept for the backward pass, in their own dtype. The gradient of the inputs is that of the losses
    of all replicas. The gradients of gamma and beta are those of this replica's loss; the update sums them over
    replicas.

    Args:
        inputs: Inputs of this replica, [batch, time, channels].
        gamma: Scale, [channels].
        beta: Offset, [channels].
        mean: Mean over all replicas, [channels].
        inverse_standard_deviation: 1 / sqrt(variance over all replicas + epsilon), [channels].
        count: Number of values of a channel on all replicas, scalar.
    """

    def standardized() -> tf.Tensor:
        return (tf.cast(inputs, mean.dtype) - mean) * inverse_standard_deviation

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
        upstream, values = tf.cast(upstream, mean.dtype), standardized()
        beta_gradient, gamma_gradient = tf.reduce_sum(upstream, [0, 1]), tf.reduce_sum(upstream * values, [0, 1])
        through_mean, through_deviation = tf.unstack(
            sum_over_replicas(tf.stack([beta_gradient, gamma_gradient])) / count
        )
        input_gradient = gamma * inverse_standard_deviation * (upstream - through_mean - values * through_deviation)
        return tf.cast(input_gradient, inputs.dtype), gamma_gradient, beta_gradient, None, None, None

    return tf.cast(standardized() * gamma + beta, inputs.dtype), gradient
