"""AdamW: Adam whose weight decay does not go through the gradient."""

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from clmr_tf.optimizers.layerwise import is_kernel


@keras.saving.register_keras_serializable("clmr_tf")
class AdamW(keras.optimizers.Adam):
    """Adam with decoupled weight decay, Loshchilov and Hutter 2019, algorithm 2.

    With w a weight, λ the decay, η the learning rate, which scales both parts as in PyTorch and Keras:

        w ← w - η λ w - η (Adam's direction)

    Keras' own AdamW decays in `apply`, which training does not call, and decays biases as well.

    Args:
        learning_rate: A number or a schedule.
        kernel_decay: λ, of weights of at least two dimensions; the others are not decayed.
        **kwargs: Of `keras.optimizers.Adam`, with its names and defaults.
    """

    def __init__(
        self, learning_rate: float | LearningRateSchedule = 1e-3, *, kernel_decay: float = 1e-6, **kwargs
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.kernel_decay = kernel_decay

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Decays a weight and then takes Adam's step, whose direction does not depend on the weight."""
        if is_kernel(variable):
            self.assign_sub(variable, tf.cast(learning_rate, variable.dtype) * self.kernel_decay * variable)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict:
        """The arguments, for Keras to make it again."""
        return {**super().get_config(), "kernel_decay": self.kernel_decay}
