"""Stochastic gradient descent with Nesterov's momentum, as PyTorch has it."""

from collections.abc import Sequence

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule


@keras.saving.register_keras_serializable("clmr_tf")
class Nesterov(keras.optimizers.Optimizer):
    """`torch.optim.SGD(nesterov=True)` (PyTorch's documentation of it; Sutskever et al. 2013, section 2).

    With w a weight, g its gradient, v its velocity, η the learning rate, λ the decay, m the momentum:

        u = g + λ w
        v ← m v + u
        w ← w - η (u + m v)

    The velocity has no learning rate in it, so a new learning rate counts for the whole of the next step. That of
    Keras' own SGD has, and goes on with the rate of the steps before.

    Args:
        learning_rate: A number or a schedule.
        momentum: m.
        decay: λ, of all weights, biases and batch normalisation too, as the released code does it.
        **kwargs: Of `keras.optimizers.Optimizer`; its `weight_decay` would come on top.
    """

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 3e-4,
        *,
        momentum: float = 0.9,
        decay: float = 1e-6,
        **kwargs,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.momentum = momentum
        self.decay = decay

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Makes the velocities of the weights, once."""
        if self.built:
            return
        super().build(variables)
        self._velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Changes a weight."""
        learning_rate = tf.cast(learning_rate, variable.dtype)
        update = tf.cast(gradient, variable.dtype) + self.decay * variable
        velocity = self._velocities[self._get_variable_index(variable)]
        self.assign(velocity, self.momentum * velocity + update)
        self.assign_sub(variable, learning_rate * (update + self.momentum * velocity))

    def get_config(self) -> dict:
        """The arguments, for Keras to make it again."""
        return {**super().get_config(), "momentum": self.momentum, "decay": self.decay}
