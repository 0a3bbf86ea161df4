"""Optimizers give the same weights eagerly, compiled and on two replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.train.build import learning_rate_schedule
from clmr_tf.train.distribution import build_strategy
from clmr_tf.train.optimizers import build_optimizer
from tests.clmr_tf.train.weight_steps import take_step

NAMES = ("adam", "adamw", "lars", "lamb", "sgd")
SHAPES = ((3, 4, 8), (8,), (8, 5))
NUM_STEPS = 4


def values_of(seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape).astype(np.float32) for shape in SHAPES]


def built(name: str) -> tuple[keras.Optimizer, list[keras.Variable]]:
    """Builds an optimizer with a warm-up and cosine schedule, and its weights."""
    schedule = learning_rate_schedule("cosine", 0.1, warmup_steps=2, decay_steps=6)
    optimizer = build_optimizer(name, schedule, weight_decay=0.1)
    variables = [keras.Variable(value) for value in values_of(0)]
    optimizer.build(variables)
    return optimizer, variables


def weights_after_steps(name: str, **compilation) -> list[np.ndarray]:
    """Trains on one device, eagerly or compiled with these `tf.function` options."""
    optimizer, variables = built(name)

    def step(*gradients):
        take_step(tf.distribute.get_strategy(), optimizer, variables, gradients)

    run = tf.function(step, **compilation) if compilation else step
    for number in range(NUM_STEPS):
        run(*map(tf.constant, values_of(1 + number)))
    return [variable.numpy() for variable in variables]


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_changes(name):
    for before, after in zip(values_of(0), weights_after_steps(name), strict=True):
        assert (before != after).all()


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_compiled_weights_equal_eager(name, jit_compile):
    received = weights_after_steps(name, jit_compile=jit_compile)
    for expected, after in zip(weights_after_steps(name), received, strict=True):
        np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_weights_on_two_replicas_equal_one_device(name):
    strategy = build_strategy("mirrored", 2)
    with strategy.scope():
        optimizer, variables = built(name)

    def in_replica(*gradients):
        context = tf.distribute.get_replica_context()
        # Each replica has half of the gradient; halving and summing are exact.
        parts = [gradient / 2 for gradient in gradients]
        context.merge_call(
            lambda strategy, *reduced: take_step(strategy, optimizer, variables, reduced),
            args=context.all_reduce("SUM", parts),
        )

    @tf.function
    def step(*gradients):
        strategy.run(in_replica, args=gradients)

    for number in range(NUM_STEPS):
        step(*map(tf.constant, values_of(1 + number)))
    assert int(tf.convert_to_tensor(optimizer.iterations)) == NUM_STEPS
    expected = weights_after_steps(name, jit_compile=False)
    for weight, variable in zip(expected, variables, strict=True):
        first, second = (copy.numpy() for copy in strategy.experimental_local_results(variable.value))
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(first, weight, rtol=1e-6, atol=1e-7)


def test_learning_rate_follows_the_restored_iterations():
    strategy = build_strategy("mirrored", 2)
    with strategy.scope():
        optimizer, _ = built("lars")
    for iterations, learning_rate in ((1, 0.05), (4, 0.05), (2, 0.1)):
        optimizer.iterations.assign(iterations)
        assert float(optimizer.learning_rate) == pytest.approx(learning_rate, rel=1e-6)
