"""LARS and LAMB against steps worked out by hand, with Pythagorean weights and updates."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.train.optimizers import LAMB, LARS, is_kernel, trust_ratio
from tests.clmr_tf.train.weight_steps import take_step


def steps_of(optimizer: keras.Optimizer, weight: list, gradients: list) -> list[np.ndarray]:
    """Returns the weight after each step."""
    variable = keras.Variable(weight, dtype="float32")
    optimizer.build([variable])
    after = []
    for gradient in gradients:
        take_step(tf.distribute.get_strategy(), optimizer, [variable], [tf.constant(gradient)])
        after.append(variable.numpy())
    return after


@pytest.mark.parametrize(
    ("weight", "update", "ratio"),
    [
        ([[3.0, 4.0]], [[6.0, 8.0]], 0.5),
        ([[3.0], [4.0]], [[-0.6], [0.8]], 5.0),
        # 2² + 3² + 6² = 7², 1² + 4² + 8² = 9²
        ([[[2.0], [3.0], [6.0]]], [[[1.0], [4.0], [8.0]]], 7 / 9),
        ([[0.0, 0.0]], [[6.0, 8.0]], 1.0),
        ([[3.0, 4.0]], [[0.0, 0.0]], 1.0),
        ([[0.0, 0.0]], [[0.0, 0.0]], 1.0),
    ],
)
def test_trust_ratio_is_quotient_of_norms_or_one(weight, update, ratio):
    assert float(trust_ratio(tf.constant(weight), tf.constant(update))) == pytest.approx(ratio)


def test_trust_coefficient_scales_the_ratio_but_not_the_fallback():
    weight, zeros = tf.constant([[3.0, 4.0]]), tf.zeros([1, 2])
    assert float(trust_ratio(weight, 2.0 * weight, 0.001)) == pytest.approx(0.0005)
    assert float(trust_ratio(zeros, weight, 0.001)) == 1.0


def test_is_kernel_excludes_biases_and_batch_normalization():
    model = keras.Sequential(
        [keras.Input((9, 1)), keras.layers.Conv1D(2, 3), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    )
    kernels = [weight.path.split("/")[-1] for weight in model.trainable_weights if is_kernel(weight.value)]
    others = [weight.path.split("/")[-1] for weight in model.trainable_weights if not is_kernel(weight.value)]
    assert kernels == ["kernel", "kernel"]
    assert others == ["bias", "gamma", "beta", "bias"]


def test_two_lars_steps_equal_hand_calculation():
    # Learning rate 2, decay 0.1, coefficient 0.001. Step 1: ‖w‖ = 5; u = g + 0.1 w = [6, 8], ‖u‖ = 10; the ratio is
    # 0.001 · 5 / 10 = 0.0005; v = 2 · 0.0005 u = [0.006, 0.008]. Step 2: w = [2.994, 3.992], ‖w‖ = 4.99; u = [6, 8];
    # v = 0.9 [0.006, 0.008] + 2 · 0.000499 [6, 8] = [0.011388, 0.015184].
    optimizer = LARS(2.0, kernel_decay=0.1)
    received = steps_of(optimizer, [[3.0, 4.0]], [[[5.7, 7.6]], [[5.7006, 7.6008]]])
    np.testing.assert_allclose(received[0], [[2.994, 3.992]], rtol=1e-6)
    np.testing.assert_allclose(received[1], [[2.982612, 3.976816]], rtol=1e-6)


def test_lars_on_a_bias_is_plain_momentum():
    # v = 2 [5, 7] = [10, 14], then 0.9 [10, 14] + 2 [1, 1] = [11, 14.6].
    received = steps_of(LARS(2.0, kernel_decay=0.1), [3.0, 4.0], [[5.0, 7.0], [1.0, 1.0]])
    np.testing.assert_allclose(received, [[-7.0, -10.0], [-18.0, -24.6]], rtol=1e-6)


def test_lars_updates_a_kernel_of_zeros():
    received = steps_of(LARS(0.1), [[0.0, 0.0]], [[[3.0, 4.0]]])
    np.testing.assert_allclose(received, [[[-0.3, -0.4]]], rtol=1e-6)


def test_lamb_step_equals_hand_calculation():
    # The corrected means of a first step are g and g², so r = [-1, 1]. u = r + 0.5 w = [3, 4], ‖u‖ = 5, ‖w‖ = 10:
    # the ratio is 2, the change 0.1 · 2 u = [0.6, 0.8].
    received = steps_of(LAMB(0.1, kernel_decay=0.5), [[8.0, 6.0]], [[[-0.3, 0.7]]])
    np.testing.assert_allclose(received, [[[7.4, 5.2]]], rtol=1e-5)


def test_lamb_step_on_a_bias_equals_the_learning_rate():
    received = steps_of(LAMB(0.1, kernel_decay=0.5), [8.0, 6.0], [[-0.3, 0.7]])
    np.testing.assert_allclose(received, [[8.1, 5.9]], rtol=1e-5)
