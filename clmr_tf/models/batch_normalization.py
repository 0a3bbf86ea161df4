"""Batch normalisation over time and batch, equal to PyTorch's and fused into one kernel."""

from collections.abc import Callable

import keras
import tensorflow as tf

from clmr_tf.models.replicas import moments_over_replicas, num_replicas_in_sync, sum_over_replicas


@keras.saving.register_keras_serializable("clmr_tf")
class BatchNormalization1D(keras.layers.Layer):
    """Normalises [batch, time, channels] over batch and time.

    Equal to `torch.nn.BatchNorm1d`: epsilon 1e-5, running statistics that move by one tenth per step, and a
    running variance with Bessel's correction (Keras' own layer has 1e-3, one hundredth, and none). On one replica
    the batch statistics come from the fused kernel, which is about a fifth of a CPU training step faster than the
    separate moments that Keras computes; with several they are those of all replicas' inputs together. Statistics
    and parameters are float32 under the mixed policies too. A batch whose statistics are not finite leaves the
    running ones as they were.

    Args:
        momentum: Share of the running statistics that a step keeps.
        epsilon: Added to the variance.
    """

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5, **kwargs) -> None:
        super().__init__(**kwargs)
        self.momentum = momentum
        self.epsilon = epsilon

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes scale, offset and the two running statistics, [channels] each."""
        shape = (input_shape[-1],)

        def variable(name: str, initializer: str, trainable: bool = True) -> keras.Variable:
            # Without autocast, or a mixed precision policy would hand the kernel bfloat16 statistics.
            return self.add_weight(
                name=name,
                shape=shape,
                initializer=initializer,
                trainable=trainable,
                autocast=False,
                # The running statistics, which alone change within a step, are the same on all replicas.
                aggregation="none" if trainable else "only_first_replica",
            )

        self.gamma = variable("gamma", "ones")
        self.beta = variable("beta", "zeros")
        self.moving_mean = variable("moving_mean", "zeros", trainable=False)
        self.moving_variance = variable("moving_variance", "ones", trainable=False)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the normalised inputs; in training also moves the running statistics."""
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
        # The kernel wants images; one row of `time` pixels is the same memory.
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
        # What the statistics do to the gradient is in `_normalized`, whose backward pass needs no float32 copies.
        frames = tf.cast(tf.stop_gradient(inputs), self.variable_dtype)
        mean, variance = moments_over_replicas(frames, [0, 1])
        # In 64 bits: a thousand views have more values in the first layer than 32 bits count.
        num_values = tf.size(frames, out_type=tf.int64) // frames.shape[-1] * num_replicas_in_sync()
        count = tf.cast(num_values, frames.dtype)
        scale_and_offset = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        outputs = _normalized(inputs, *scale_and_offset, mean, tf.math.rsqrt(variance + self.epsilon), count)
        return outputs, mean, variance * count / (count - 1.0)

    def get_config(self) -> dict:
        """The arguments that make this layer again."""
        return {**super().get_config(), "momentum": self.momentum, "epsilon": self.epsilon}


@tf.custom_gradient
def _normalized(
    inputs: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    mean: tf.Tensor,
    inverse_deviation: tf.Tensor,
    count: tf.Tensor,
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor | None, ...]]]:
    """Normalises by statistics of all replicas' inputs, and differentiates as if it had computed them itself.

    Only the inputs are kept for the backward pass, in their own dtype. The gradient of the inputs is of the losses of
    all replicas, that of gamma and beta of this one's, which the update adds up.

    Args:
        inputs: [batch, time, channels] of this replica.
        gamma: [channels], as all the following.
        beta: Offset.
        mean: Over all replicas, as the next.
        inverse_deviation: One by the square root of variance and epsilon.
        count: Values of a channel on all replicas, scalar.
    """

    def standardised() -> tf.Tensor:
        return (tf.cast(inputs, mean.dtype) - mean) * inverse_deviation

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
        upstream, values = tf.cast(upstream, mean.dtype), standardised()
        of_beta, of_gamma = tf.reduce_sum(upstream, [0, 1]), tf.reduce_sum(upstream * values, [0, 1])
        by_mean, by_deviation = tf.unstack(sum_over_replicas(tf.stack([of_beta, of_gamma])) / count)
        of_inputs = gamma * inverse_deviation * (upstream - by_mean - values * by_deviation)
        return tf.cast(of_inputs, inputs.dtype), of_gamma, of_beta, None, None, None

    return tf.cast(standardised() * gamma + beta, inputs.dtype), gradient
