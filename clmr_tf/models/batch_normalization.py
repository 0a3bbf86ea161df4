"""Batch normalisation over time and batch, equal to PyTorch's and fused into one kernel."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("clmr_tf")
class BatchNormalization1D(keras.layers.Layer):
    """Normalises [batch, time, channels] over batch and time.

    Equal to `torch.nn.BatchNorm1d`: epsilon 1e-5, running statistics that move by one tenth per step, and a
    running variance with Bessel's correction (Keras' own layer has 1e-3, one hundredth, and none). The batch
    statistics come from the fused kernel, which is about a fifth of a CPU training step faster than the
    separate moments that Keras computes. Statistics and parameters are float32 under every precision policy.

    Args:
        momentum: Share of the running statistics that a step keeps.
        epsilon: Added to the variance.
    """

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5, **kwargs) -> None:
        super().__init__(**kwargs)
        self.momentum = momentum
        self.epsilon = epsilon

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes scale, offset and the two running statistics, float32 [channels] each."""
        shape = (input_shape[-1],)

        def variable(name: str, initializer: str, trainable: bool = True) -> keras.Variable:
            # Without autocast, or a mixed precision policy would hand the kernel bfloat16 statistics.
            return self.add_weight(
                name=name,
                shape=shape,
                dtype="float32",
                initializer=initializer,
                trainable=trainable,
                autocast=False,
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
        for statistic, batch_value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            statistic.assign(self.momentum * statistic + (1.0 - self.momentum) * batch_value)
        return tf.squeeze(outputs, 1)

    def get_config(self) -> dict:
        """The arguments that make this layer again."""
        return {**super().get_config(), "momentum": self.momentum, "epsilon": self.epsilon}
