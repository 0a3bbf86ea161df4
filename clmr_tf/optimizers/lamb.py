"""LAMB: Adam whose step is measured by the size of each weight."""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from clmr_tf.optimizers.layerwise import is_kernel, trust_ratio


@keras.saving.register_keras_serializable("clmr_tf")
class LAMB(keras.optimizers.Optimizer):
    """Layer-wise adaptive moments, You et al. 2020, algorithm 2, with the identity for its φ.

    With w a weight, m and v the bias-corrected running means of its gradient and of the square, η the learning rate,
    λ the decay:

        r = m / (√v + ε)
        u = r + λ w
        w ← w - η (‖w‖ / ‖u‖) u

    Biases and batch normalisation have neither decay nor ratio, w ← w - η r, as in Google's code for ALBERT
    (`lamb_optimizer.py`). While a kernel or its u is zero, the ratio is 1. Keras' own Lamb adapts biases as well and
    leaves the decay to `apply`, outside of the ratio.

    Args:
        learning_rate: A number or a schedule.
        beta_1: Share that a step keeps of the mean of the gradient.
        beta_2: Share that a step keeps of the mean of its square.
        epsilon: ε.
        kernel_decay: λ, of weights of at least two dimensions.
        **kwargs: Of `keras.optimizers.Optimizer`; its `weight_decay` would come on top.
    """

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 1e-3,
        *,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        kernel_decay: float = 1e-6,
        **kwargs,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.kernel_decay = kernel_decay

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Makes the running means of the weights' gradients, once."""
        if self.built:
            return
        super().build(variables)
        self._means, self._mean_squares = self.add_optimizer_variables(variables, ["mean", "mean_square"])

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Changes a weight; its gradient must be that of the whole batch, for the norm to be."""
        learning_rate, gradient = (tf.cast(value, variable.dtype) for value in (learning_rate, gradient))
        index = self._get_variable_index(variable)
        mean = self._averaged(self._means[index], gradient, self.beta_1)
        mean_square = self._averaged(self._mean_squares[index], tf.square(gradient), self.beta_2)
        update = mean / (tf.sqrt(mean_square) + self.epsilon)
        if is_kernel(variable):
            update += self.kernel_decay * variable
            update *= trust_ratio(variable, update)
        self.assign_sub(variable, learning_rate * update)

    def get_config(self) -> dict:
        """The arguments, for Keras to make it again."""
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "kernel_decay": self.kernel_decay,
        }

    def _averaged(self, average: keras.Variable, value: tf.Tensor, share_kept: float) -> tf.Tensor:
        """Takes a value into its running mean, which starts at zero; returns the mean without the share of that."""
        self.assign_add(average, (1.0 - share_kept) * (value - average))
        step = tf.cast(self.iterations + 1, value.dtype)
        # 1 - share_kept ** step, of which float32 would lose the last digits in the first steps.
        return average / -tf.math.expm1(step * math.log(share_kept))
