"""LARS: momentum whose step is measured by the size of each weight."""

from collections.abc import Sequence

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from clmr_tf.optimizers.layerwise import is_kernel, trust_ratio


@keras.saving.register_keras_serializable("clmr_tf")
class LARS(keras.optimizers.Optimizer):
    """Layer-wise adaptive rate scaling, You et al. 2017, as SimCLR has it (`lars_optimizer.py`, classic momentum).

    With w a weight, g its gradient, v its velocity, η the learning rate, λ the decay, m the momentum:

        u = g + λ w
        v ← m v + η (trust_coefficient ‖w‖ / ‖u‖) u
        w ← w - v

    Biases and batch normalisation have neither decay nor ratio: v ← m v + η g. While a kernel or its u is zero, what
    stands in brackets is 1.

    The released CLMR code means the same and does another thing: its LARS (package simclr 1.0.2) ignores the list of
    what to leave out, so that biases and batch normalisation are decayed and adapted too, and its ratio of a zero
    weight is 0, so that the offsets of batch normalisation, which start at zero, stay there.

    Args:
        learning_rate: A number or a schedule.
        momentum: m.
        kernel_decay: λ, of weights of at least two dimensions.
        trust_coefficient: Share of a weight's norm that a step moves it at a learning rate of 1 ("eeta" in SimCLR).
        **kwargs: Of `keras.optimizers.Optimizer`; its `weight_decay` would come on top.
    """

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.1,
        *,
        momentum: float = 0.9,
        kernel_decay: float = 1e-6,
        trust_coefficient: float = 1e-3,
        **kwargs,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.momentum = momentum
        self.kernel_decay = kernel_decay
        self.trust_coefficient = trust_coefficient

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Makes the velocities of the weights, once."""
        if self.built:
            return
        super().build(variables)
        self._velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Changes a weight; its gradient must be that of the whole batch, for the norm to be."""
        learning_rate = tf.cast(learning_rate, variable.dtype)
        update = tf.cast(gradient, variable.dtype)
        if is_kernel(variable):
            update += self.kernel_decay * variable
            update *= trust_ratio(variable, update, self.trust_coefficient)
        velocity = self._velocities[self._get_variable_index(variable)]
        self.assign(velocity, self.momentum * velocity + learning_rate * update)
        self.assign_sub(variable, velocity)

    def get_config(self) -> dict:
        """The arguments, for Keras to make it again."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "kernel_decay": self.kernel_decay,
            "trust_coefficient": self.trust_coefficient,
        }
