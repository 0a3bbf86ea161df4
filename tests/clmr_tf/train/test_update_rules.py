"""Each optimizer compared with its published update rule in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.train.optimizers import build_optimizer
from tests.clmr_tf.train.weight_steps import take_step

LEARNING_RATE = 0.01
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
# Large enough to matter next to gradients of 0.1.
WEIGHT_DECAY = 0.1
SHAPES = ((5, 3), (4,), (2, 2), (3, 2, 4))


def initial_weights() -> list[np.ndarray]:
    """Returns a matrix, a small vector, zeros and a convolution kernel."""
    generator = np.random.default_rng(0)
    scales = (1.0, 0.01, 0.0, 0.1)
    return [scale * generator.standard_normal(shape) for scale, shape in zip(scales, SHAPES, strict=True)]


def gradients_of(num_steps: int, scale: float) -> list[list[np.ndarray]]:
    """Returns gradients whose sizes vary from step to step between `scale` and 4 * `scale`."""
    generator = np.random.default_rng(1)

    def gradient(shape: tuple[int, ...]) -> np.ndarray:
        return scale * generator.uniform(1, 4, shape) * generator.choice([-1, 1], shape)

    return [[gradient(shape) for shape in SHAPES] for _ in range(num_steps)]


def optimized(name: str, gradients: list[list[np.ndarray]], weight_decay: float = WEIGHT_DECAY) -> list[np.ndarray]:
    variables = [keras.Variable(weight, dtype="float64") for weight in initial_weights()]
    optimizer = build_optimizer(name, LEARNING_RATE, weight_decay=weight_decay)
    optimizer.build(variables)
    for of_step in gradients:
        take_step(tf.distribute.get_strategy(), optimizer, variables, of_step)
    return [variable.numpy() for variable in variables]


def moments(gradients: list[np.ndarray]):
    """Yields the step and the uncorrected running means of the gradient and its square."""
    first, second = 0.0, 0.0
    for step, gradient in enumerate(gradients, start=1):
        first = BETA_1 * first + (1 - BETA_1) * gradient
        second = BETA_2 * second + (1 - BETA_2) * gradient**2
        yield step, first, second


def corrected_direction(step: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Kingma and Ba 2015, algorithm 1."""
    return first / (1 - BETA_1**step) / (np.sqrt(second / (1 - BETA_2**step)) + EPSILON)


def direction(step: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Kingma and Ba 2015, in the order of computation at the end of section 2, as in Keras.

    Epsilon is added to the uncorrected root here.
    """
    return np.sqrt(1 - BETA_2**step) / (1 - BETA_1**step) * first / (np.sqrt(second) + EPSILON)


def decay_of(weight: np.ndarray) -> float:
    return WEIGHT_DECAY if weight.ndim > 1 else 0.0


def ratio_of(weight: np.ndarray, update: np.ndarray, coefficient: float) -> float:
    """Returns the trust ratio, 1 for vectors and zeros."""
    has_ratio = weight.ndim > 1 and weight.any() and update.any()
    return coefficient * np.sqrt(np.sum(weight**2) / np.sum(update**2)) if has_ratio else 1.0


def adam(weight: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    for step, first, second in moments(gradients):
        weight = weight - LEARNING_RATE * direction(step, first, second)
    return weight


def adamw(weight: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    """Loshchilov and Hutter 2019, algorithm 2, with the decay scaled by the learning rate."""
    for step, first, second in moments(gradients):
        weight = weight - LEARNING_RATE * (direction(step, first, second) + decay_of(weight) * weight)
    return weight


def lars(weight: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    """SimCLR's `lars_optimizer.py` with its defaults: a coefficient of 0.001, classic momentum of 0.9."""
    velocity = np.zeros_like(weight)
    for gradient in gradients:
        update = gradient + decay_of(weight) * weight
        velocity = 0.9 * velocity + LEARNING_RATE * ratio_of(weight, update, 0.001) * update
        weight = weight - velocity
    return weight


def lamb(weight: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    """You et al. 2020, algorithm 2."""
    for step, first, second in moments(gradients):
        update = corrected_direction(step, first, second) + decay_of(weight) * weight
        weight = weight - LEARNING_RATE * ratio_of(weight, update, 1.0) * update
    return weight


def sgd(weight: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    """Momentum of 0.9 as Sutskever et al. 2013 write it."""
    velocity = np.zeros_like(weight)
    for gradient in gradients:
        velocity = 0.9 * velocity - LEARNING_RATE * gradient
        weight = weight + velocity
    return weight


RULES = {"adam": adam, "adamw": adamw, "lars": lars, "lamb": lamb, "sgd": sgd}


# An epsilon of 1e-8 matters for gradients of 1e-7, but not for those of 0.1.
@pytest.mark.parametrize("scale", [0.1, 1e-7])
@pytest.mark.parametrize("num_steps", [1, 2, 12])
@pytest.mark.parametrize("name", RULES)
def test_weights_follow_the_published_rule(name, num_steps, scale):
    gradients = gradients_of(num_steps, scale)
    received = optimized(name, gradients)
    for number, (weight, after) in enumerate(zip(initial_weights(), received, strict=True)):
        expected = RULES[name](weight, [of_step[number] for of_step in gradients])
        # The learning rate and Adam's betas are rounded to float32. The changes are compared, which may be tiny.
        change = expected - weight
        np.testing.assert_allclose(after - weight, change, rtol=0, atol=1e-5 * np.abs(change).max())


@pytest.mark.parametrize("name", RULES)
def test_only_adamw_lars_and_lamb_decay_and_only_kernels(name):
    gradients = gradients_of(1, 0.1)
    with_decay, without = optimized(name, gradients), optimized(name, gradients, weight_decay=0.0)
    is_decayed = [not np.array_equal(a, b) for a, b in zip(with_decay, without, strict=True)]
    # The vector is excluded, and decay does not change a kernel of zeros.
    assert is_decayed == ([True, False, False, True] if name in ("adamw", "lars", "lamb") else [False] * 4)


def test_adam_equals_pytorch_for_ordinary_gradients():
    gradients = gradients_of(5, 0.1)
    received = optimized("adam", gradients)
    for number, (weight, after) in enumerate(zip(initial_weights(), received, strict=True)):
        expected = weight
        for moment in moments([of_step[number] for of_step in gradients]):
            expected = expected - LEARNING_RATE * corrected_direction(*moment)
        # The other place of epsilon changes the first step by a relative 3e-6; a step changes a weight by at most 0.01.
        np.testing.assert_allclose(after - weight, expected - weight, rtol=0, atol=5e-7)


def test_unknown_optimizer_is_rejected_with_the_valid_names():
    with pytest.raises(ValueError, match=r"'adam', 'adamw', 'lars', 'lamb', 'nesterov', 'sgd'.*Received: 'rmsprop'"):
        build_optimizer("rmsprop", LEARNING_RATE)
