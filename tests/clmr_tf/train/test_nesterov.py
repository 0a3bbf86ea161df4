"""Nesterov momentum compared with a hand calculation and with PyTorch's formula."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.train.optimizers import Nesterov, build_optimizer


def steps_of(optimizer: keras.Optimizer, weight: np.ndarray, gradients: list, learning_rates: list) -> list[np.ndarray]:
    variable = keras.Variable(weight, dtype="float64")
    optimizer.build([variable])
    weights = []
    for gradient, learning_rate in zip(gradients, learning_rates, strict=True):
        optimizer.update_step(tf.constant(gradient, tf.float64), variable.value, tf.constant(learning_rate, tf.float64))
        weights.append(variable.numpy().copy())
    return weights


def test_two_steps_equal_hand_calculation():
    # u = 1 + 0.5 * 2 = 2, v = 2, w = 2 - 0.1 (2 + 0.9 * 2) = 1.62; then with a learning rate of 0.01
    # u = 1 + 0.5 * 1.62 = 1.81, v = 0.9 * 2 + 1.81 = 3.61, w = 1.62 - 0.01 (1.81 + 0.9 * 3.61) = 1.56941
    first, second = steps_of(Nesterov(decay=0.5), np.array([2.0]), [[1.0], [1.0]], [0.1, 0.01])
    assert first[0] == pytest.approx(1.62, rel=1e-12) and second[0] == pytest.approx(1.56941, rel=1e-12)


def test_biases_and_kernels_are_decayed_alike():
    for shape in ([3], [3, 2]):
        (weight,) = steps_of(Nesterov(decay=0.1), np.ones(shape), [np.zeros(shape)], [1.0])
        np.testing.assert_allclose(weight, 1 - 0.1 * 1.9, rtol=1e-12)


def test_build_optimizer_uses_the_released_decay():
    assert build_optimizer("nesterov", 3e-4).decay == 1e-6


def test_thirty_steps_equal_pytorch_formula():
    generator = np.random.default_rng(0)
    weight, gradients = generator.standard_normal(5), generator.standard_normal((30, 5))
    learning_rates = [0.1] * 10 + [0.02] * 10 + [0.004] * 10
    received = steps_of(Nesterov(decay=0.01), weight, list(gradients), learning_rates)
    expected, buffer = weight.copy(), None
    for gradient, learning_rate, now in zip(gradients, learning_rates, received, strict=True):
        d_p = gradient + 0.01 * expected
        buffer = d_p if buffer is None else 0.9 * buffer + d_p
        expected = expected - learning_rate * (d_p + 0.9 * buffer)
        np.testing.assert_allclose(now, expected, rtol=1e-12)
