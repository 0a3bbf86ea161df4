"""The optimizers: Adam, AdamW, SGD, Nesterov, LARS and LAMB."""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

# Momentum of Nesterov, LARS and SGD.
MOMENTUM = 0.9
# PyTorch's; Keras has 1e-7. Keras' Adam adds it before the bias correction and PyTorch after, which makes a difference
# in the first steps for gradients of about 1e-6 and below.
EPSILON = 1e-8
# Size of a step of LARS at a learning rate of 1, as a fraction of the norm of the weight ("eeta" in SimCLR).
_TRUST_COEFFICIENT = 1e-3
# LAMB's decay rates of the means of the gradient and of its square.
_BETA_1, _BETA_2 = 0.9, 0.999


def is_kernel(weight: tf.Variable) -> bool:
    """Whether a weight is a kernel: only kernels are decayed and adapted, not biases or normalisation parameters.

    This is decided by rank, since the variable that an optimizer gets has no name. SimCLR's LARS and ALBERT's LAMB
    exclude the same weights by name.
    """
    return weight.shape.rank > 1


def trust_ratio(weight: tf.Tensor, update: tf.Tensor, coefficient: float = 1.0) -> tf.Tensor:
    """`coefficient` ‖weight‖ / ‖update‖, a scalar; 1 where either is zero.

    The norms are Euclidean, over all elements. A ratio of 0 would keep a weight that starts at zero there forever.
    """
    weight_norm, update_norm = tf.norm(weight), tf.norm(update)
    ratio = coefficient * tf.math.divide_no_nan(weight_norm, update_norm)
    return tf.where((weight_norm > 0) & (update_norm > 0), ratio, tf.ones_like(ratio))


class _WithVelocities(keras.optimizers.Optimizer):
    """An optimizer that keeps a velocity for every weight."""

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the velocities of the weights, once."""
        if self.built:
            return
        super().build(variables)
        self._velocities = self.add_optimizer_variables(variables, "velocity")


class Nesterov(_WithVelocities):
    """`torch.optim.SGD(nesterov=True)` (PyTorch's documentation of it; Sutskever et al. 2013, section 2).

    With w a weight, g its gradient, v its velocity, η the learning rate, λ the decay, m the momentum:

        u = g + λ w
        v ← m v + u
        w ← w - η (u + m v)

    The velocity does not contain the learning rate, so a new learning rate applies to the whole next step. In Keras'
    own SGD it does, so the velocity keeps the old rate.

    Args:
        learning_rate: A number or a schedule.
        decay: λ, of all weights including biases and batch normalisation, as in the released code.
    """

    def __init__(self, learning_rate: float | LearningRateSchedule = 3e-4, *, decay: float = 1e-6) -> None:
        super().__init__(learning_rate)
        self.decay = decay

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Updates a weight."""
        learning_rate = tf.cast(learning_rate, variable.dtype)
        update = tf.cast(gradient, variable.dtype) + self.decay * variable
        velocity = self._velocities[self._get_variable_index(variable)]
        self.assign(velocity, MOMENTUM * velocity + update)
        self.assign_sub(variable, learning_rate * (update + MOMENTUM * velocity))


class AdamW(keras.optimizers.Adam):
    """Adam with decoupled weight decay, Loshchilov and Hutter 2019, algorithm 2.

    With w a weight, λ the decay, η the learning rate, which scales both parts as in PyTorch and Keras:

        w ← w - η λ w - η (Adam's direction)

    Keras' own AdamW decays in `apply`, which training does not call, and decays biases as well.

    Args:
        learning_rate: A number or a schedule.
        kernel_decay: λ, of weights of at least two dimensions; the others are not decayed.
        **kwargs: Passed to `keras.optimizers.Adam`, with its names and defaults.
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


class LARS(_WithVelocities):
    """Layer-wise adaptive rate scaling, You et al. 2017, as in SimCLR (`lars_optimizer.py`, classic momentum).

    With w a weight, g its gradient, v its velocity, η the learning rate, λ the decay, m the momentum:

        u = g + λ w
        v ← m v + η (trust_coefficient ‖w‖ / ‖u‖) u
        w ← w - v

    Biases and batch normalisation have neither decay nor ratio: v ← m v + η g. While a kernel or its u is zero, the
    bracket is 1.

    The released CLMR code tries to do the same, but its LARS (package simclr 1.0.2) ignores the list of exclusions, so
    biases and batch normalisation are decayed and adapted too. Its ratio of a zero weight is 0, so the offsets of batch
    normalisation, which start at zero, never change.

    Args:
        learning_rate: A number or a schedule.
        kernel_decay: λ, of weights of at least two dimensions.
    """

    def __init__(self, learning_rate: float | LearningRateSchedule = 0.1, *, kernel_decay: float = 1e-6) -> None:
        super().__init__(learning_rate)
        self.kernel_decay = kernel_decay

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Updates a weight; its gradient must be that of the whole batch, because its norm is used."""
        learning_rate = tf.cast(learning_rate, variable.dtype)
        update = tf.cast(gradient, variable.dtype)
        if is_kernel(variable):
            update += self.kernel_decay * variable
            update *= trust_ratio(variable, update, _TRUST_COEFFICIENT)
        velocity = self._velocities[self._get_variable_index(variable)]
        self.assign(velocity, MOMENTUM * velocity + learning_rate * update)
        self.assign_sub(variable, velocity)


class LAMB(keras.optimizers.Optimizer):
    """Layer-wise adaptive moments, You et al. 2020, algorithm 2, with the identity for its φ.

    With w a weight, m and v the bias-corrected running means of its gradient and of the square, η the learning rate,
    λ the decay:

        r = m / (√v + ε)
        u = r + λ w
        w ← w - η (‖w‖ / ‖u‖) u

    Biases and batch normalisation have neither decay nor ratio, w ← w - η r, as in Google's code for ALBERT
    (`lamb_optimizer.py`). While a kernel or its u is zero, the ratio is 1. Keras' own Lamb adapts biases as well, and
    its decay is in `apply`, outside of the ratio.

    Args:
        learning_rate: A number or a schedule.
        kernel_decay: λ, of weights of at least two dimensions.
    """

    def __init__(self, learning_rate: float | LearningRateSchedule = 1e-3, *, kernel_decay: float = 1e-6) -> None:
        super().__init__(learning_rate)
        self.kernel_decay = kernel_decay

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the running means of the weights' gradients, once."""
        if self.built:
            return
        super().build(variables)
        self._means, self._mean_squares = self.add_optimizer_variables(variables, ["mean", "mean_square"])

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Updates a weight; its gradient must be that of the whole batch, because its norm is used."""
        learning_rate, gradient = (tf.cast(value, variable.dtype) for value in (learning_rate, gradient))
        index = self._get_variable_index(variable)
        mean = self._averaged(self._means[index], gradient, _BETA_1)
        mean_square = self._averaged(self._mean_squares[index], tf.square(gradient), _BETA_2)
        update = mean / (tf.sqrt(mean_square) + EPSILON)
        if is_kernel(variable):
            update += self.kernel_decay * variable
            update *= trust_ratio(variable, update)
        self.assign_sub(variable, learning_rate * update)

    def _averaged(self, average: keras.Variable, value: tf.Tensor, beta: float) -> tf.Tensor:
        """Updates a running mean, which starts at zero, and returns it with the bias correction."""
        self.assign_add(average, (1.0 - beta) * (value - average))
        step = tf.cast(self.iterations + 1, value.dtype)
        # 1 - beta ** step; computed like this, float32 does not lose digits in the first steps.
        return average / -tf.math.expm1(step * math.log(beta))


def build_optimizer(
    name: str, learning_rate: float | LearningRateSchedule, *, weight_decay: float = 1e-6
) -> keras.Optimizer:
    """Creates an optimizer; build it for the weights.

    Args:
        name: "adam" (the released default), "adamw", "lars", "lamb", "sgd" or "nesterov" (both of momentum 0.9).
        learning_rate: A number or a schedule, see `build.learning_rate_schedule`.
        weight_decay: Decay of kernels for "adamw", "lars" and "lamb", of all weights for "nesterov"; "adam" and "sgd"
            have none.

    Raises:
        ValueError: If there is no optimizer of this name.
    """
    optimizers = {
        "adam": lambda: keras.optimizers.Adam(learning_rate, epsilon=EPSILON),
        "adamw": lambda: AdamW(learning_rate, epsilon=EPSILON, kernel_decay=weight_decay),
        "lars": lambda: LARS(learning_rate, kernel_decay=weight_decay),
        "lamb": lambda: LAMB(learning_rate, kernel_decay=weight_decay),
        "nesterov": lambda: Nesterov(learning_rate, decay=weight_decay),
        "sgd": lambda: keras.optimizers.SGD(learning_rate, momentum=MOMENTUM),
    }
    if name not in optimizers:
        raise ValueError(f"name must be one of {list(optimizers)}. Received: {name!r}")
    return optimizers[name]()
