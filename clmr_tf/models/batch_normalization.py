"""Batch normalisation over batch and time, equal to PyTorch's and synchronised between replicas."""

from collections.abc import Callable

import keras
import tensorflow as tf

from clmr_tf.models.replicas import moments_over_replicas, num_replicas_in_sync, sum_over_replicas


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
        # In 64 bits: a thousand views have more than 2^31 values in the first layer.
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
    of all replicas, that of gamma and beta of this replica's loss; the update sums the latter over replicas.

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
