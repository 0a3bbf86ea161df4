"""Batch normalisation over two replicas equals that of the whole batch, with gradients and running statistics."""

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.models.layers import BatchNormalization1D
from clmr_tf.train.distribution import build_strategy

SHAPE = (8, 30, 5)
NAMES = ("gamma", "beta", "moving_mean", "moving_variance")


def start_values() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    return {name: generator.uniform(0.5, 2, SHAPE[-1]).astype(np.float32) for name in NAMES}


def batch(seed: int) -> np.ndarray:
    """Channels with different means and standard deviations, which also differ between the replicas."""
    generator = np.random.default_rng(seed)
    inputs = generator.standard_normal(SHAPE) * [0.1, 1, 2, 3, 4] + [-3, 0, 1, 2, 10]
    return (inputs + np.linspace(0, 1, SHAPE[0])[:, None, None]).astype(np.float32)


def build_layer() -> BatchNormalization1D:
    layer = BatchNormalization1D()
    layer.build(SHAPE)
    for name, value in start_values().items():
        getattr(layer, name).assign(value)
    return layer


def run(strategy, inputs: np.ndarray, cotangent: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs, gradients of sum(outputs * cotangent) over all replicas, and running statistics of each."""
    with strategy.scope():
        layer = build_layer()
    count = strategy.num_replicas_in_sync

    @tf.function
    def in_replica():
        index = tf.distribute.get_replica_context().replica_id_in_sync_group
        own = tf.gather(tf.reshape(inputs, [count, -1, *SHAPE[1:]]), index)
        weights = tf.gather(tf.reshape(cotangent, [count, -1, *SHAPE[1:]]), index)
        with tf.GradientTape() as tape:
            tape.watch(own)
            outputs = layer(own, training=True)
            loss = tf.reduce_sum(outputs * weights)
        return outputs, *tape.gradient(loss, [own, layer.gamma.value, layer.beta.value])

    results = [strategy.experimental_local_results(one) for one in tf.function(lambda: strategy.run(in_replica))()]
    outputs, input_gradient = (np.concatenate([one.numpy() for one in ones]) for ones in results[:2])
    gamma, beta = (np.sum([one.numpy() for one in ones], axis=0) for ones in results[2:])
    found = {"outputs": outputs, "input": input_gradient, "gamma": gamma, "beta": beta}
    for name in NAMES[2:]:
        values = [one.numpy() for one in strategy.experimental_local_results(getattr(layer, name).value)]
        for one in values:
            np.testing.assert_array_equal(one, values[0])
        found[name] = values[0]
    return found


def test_two_replicas_equal_the_fused_layer_on_the_whole_batch():
    inputs, cotangent = batch(0), np.random.default_rng(9).standard_normal(SHAPE).astype(np.float32)
    fused = run(build_strategy("single"), inputs, cotangent)
    both = run(build_strategy("mirrored", 2), inputs, cotangent)
    assert fused.keys() == both.keys() and len(both) == 6
    for name, expected in fused.items():
        np.testing.assert_allclose(both[name], expected, rtol=2e-4, atol=2e-4, err_msg=name)
    # Both equal the definition in float64.
    exact = inputs.astype(np.float64)
    mean, variance = exact.mean((0, 1)), exact.var((0, 1))
    start = start_values()
    outputs = (exact - mean) / np.sqrt(variance + 1e-5) * start["gamma"] + start["beta"]
    np.testing.assert_allclose(both["outputs"], outputs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(both["moving_mean"], 0.9 * start["moving_mean"] + 0.1 * mean, rtol=1e-5)
    unbiased = variance * 240 / 239
    np.testing.assert_allclose(both["moving_variance"], 0.9 * start["moving_variance"] + 0.1 * unbiased, rtol=1e-5)


def test_statistics_of_each_replica_alone_would_give_other_outputs():
    inputs = batch(0)
    halves = [
        run(build_strategy("single"), np.concatenate([half, half]), inputs)["outputs"][:4]
        for half in (inputs[:4], inputs[4:])
    ]
    both = run(build_strategy("mirrored", 2), inputs, inputs)["outputs"]
    assert np.abs(np.concatenate(halves) - both).max() > 0.1


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("strategy", ["single", "mirrored"])
def test_a_batch_that_is_not_finite_does_not_change_the_running_statistics(strategy, number):
    inputs = batch(0)
    # On the second replica only.
    inputs[6, 3] = number
    found = run(build_strategy(strategy, 2), inputs, np.ones_like(inputs))
    for name in NAMES[2:]:
        np.testing.assert_array_equal(found[name], start_values()[name])
