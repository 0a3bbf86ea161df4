"""Each optimizer against its published update rule, written out in float64."""

import keras
import numpy as np
import pytest

from clmr_tf.optimizers import build_optimizer

LEARNING_RATE = 0.01
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
# Keras' default for AdamW.
WEIGHT_DECAY = 0.004
SHAPES = ((5, 3), (4,), (2, 2))


def initial_weights() -> list[np.ndarray]:
    """A matrix, a smaller vector and zeros, as the weights of layers differ in size."""
    generator = np.random.default_rng(0)
    scales = (1.0, 0.01, 0.0)
    return [scale * generator.standard_normal(shape) for scale, shape in zip(scales, SHAPES, strict=True)]


def gradients_of(num_steps: int, scale: float) -> list[list[np.ndarray]]:
    """Gradients whose sizes, within `scale` and four times as much, change from step to step."""
    generator = np.random.default_rng(1)

    def gradient(shape: tuple[int, ...]) -> np.ndarray:
        return scale * generator.uniform(1, 4, shape) * generator.choice([-1, 1], shape)

    return [[gradient(shape) for shape in SHAPES] for _ in range(num_steps)]


def optimized(name: str, gradients: list[list[np.ndarray]]) -> list[np.ndarray]:
    variables = [keras.Variable(weight, dtype="float64") for weight in initial_weights()]
    optimizer = build_optimizer(name, LEARNING_RATE)
    for of_step in gradients:
        optimizer.apply(of_step, variables)
    return [variable.numpy() for variable in variables]


def moments(gradients: list[np.ndarray]):
    """For steps 1, 2, ...: the step and the running means of the gradient and of its square, uncorrected."""
    first, second = 0.0, 0.0
    for step, gradient in enumerate(gradients, start=1):
        first = BETA_1 * first + (1 - BETA_1) * gradient
        second = BETA_2 * second + (1 - BETA_2) * gradient**2
        yield step, first, second


def corrected_direction(step: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Kingma and Ba 2015, algorithm 1."""
    return first / (1 - BETA_1**step) / (np.sqrt(second / (1 - BETA_2**step)) + EPSILON)


def direction(step: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Kingma and Ba 2015, the order of computation at the end of section 2, which is that of Keras.

    Epsilon stands beside the uncorrected root here.
    """
    return np.sqrt(1 - BETA_2**step) / (1 - BETA_1**step) * first / (np.sqrt(second) + EPSILON)


def adam(weight: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    for step, first, second in moments(gradients):
        weight = weight - LEARNING_RATE * direction(step, first, second)
    return weight


def adamw(weight: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    """Loshchilov and Hutter 2019, algorithm 2, with the decay scaled by the learning rate."""
    for step, first, second in moments(gradients):
        weight = weight - LEARNING_RATE * (direction(step, first, second) + WEIGHT_DECAY * weight)
    return weight


def lamb(weight: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    """You et al. 2020, algorithm 2, without weight decay; zero weights have a trust ratio of 1."""
    for step, first, second in moments(gradients):
        update = corrected_direction(step, first, second)
        size = np.linalg.norm(weight)
        trust_ratio = size / np.linalg.norm(update) if size > 0 else 1.0
        weight = weight - LEARNING_RATE * trust_ratio * update
    return weight


def sgd(weight: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    """Momentum of 0.9 as Sutskever et al. 2013 write it."""
    velocity = np.zeros_like(weight)
    for gradient in gradients:
        velocity = 0.9 * velocity - LEARNING_RATE * gradient
        weight = weight + velocity
    return weight


RULES = {"adam": adam, "adamw": adamw, "lamb": lamb, "sgd": sgd}


# Gradients of 1e-7 feel an epsilon of 1e-8; for those of 0.1 it makes no difference.
@pytest.mark.parametrize("scale", [0.1, 1e-7])
@pytest.mark.parametrize("num_steps", [1, 2, 12])
@pytest.mark.parametrize("name", RULES)
def test_the_weights_follow_the_published_rule(name, num_steps, scale):
    gradients = gradients_of(num_steps, scale)
    received = optimized(name, gradients)
    for number, (weight, after) in enumerate(zip(initial_weights(), received, strict=True)):
        expected = RULES[name](weight, [of_step[number] for of_step in gradients])
        # The learning rate is stored as float32. What is compared is the change, which may be tiny.
        np.testing.assert_allclose(after - weight, expected - weight, rtol=1e-5, atol=1e-15)


def test_with_ordinary_gradients_adam_is_the_algorithm_that_pytorch_has():
    gradients = gradients_of(5, 0.1)
    received = optimized("adam", gradients)
    for number, (weight, after) in enumerate(zip(initial_weights(), received, strict=True)):
        expected = weight
        for moment in moments([of_step[number] for of_step in gradients]):
            expected = expected - LEARNING_RATE * corrected_direction(*moment)
        # Epsilon beside the uncorrected root is a relative 3e-6 of the first step; a step changes by 0.01 at most.
        np.testing.assert_allclose(after - weight, expected - weight, rtol=0, atol=5e-7)


def test_an_unknown_name_is_refused_and_the_right_ones_are_named():
    with pytest.raises(ValueError, match=r"'adam', 'adamw', 'lamb', 'sgd'.*Received: 'lars'"):
        build_optimizer("lars", LEARNING_RATE)
