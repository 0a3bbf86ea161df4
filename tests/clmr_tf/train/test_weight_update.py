"""The weight update on two replicas, compared with numbers worked out by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.train.distribution import build_strategy
from clmr_tf.train.step import WeightUpdate

# Two weights and their gradients on two replicas; the mean is (3, 4) and ((12), (0)), with norm 13.
START = [np.array([1.0, 2.0], np.float32), np.array([[3.0], [4.0]], np.float32)]
GRADIENTS = [np.array([[6.0, 0.0], [0.0, 8.0]], np.float32), np.array([[[20.0], [0.0]], [[4.0], [0.0]]], np.float32)]
MEAN = [np.array([3.0, 4.0]), np.array([[12.0], [0.0]])]


class Training:
    """Weights on two replicas, and steps with given gradients."""

    def __init__(self, *, momentum: float = 0.0, **arguments) -> None:
        self.strategy = build_strategy("mirrored", 2)
        with self.strategy.scope():
            weights = [keras.Variable(value) for value in START]
            optimizer = keras.optimizers.SGD(0.1, momentum=momentum)
            optimizer.build(weights)
            self.update = WeightUpdate(optimizer, weights, **arguments)

    @tf.function
    def _step(self, gradients, losses):
        def in_replica():
            index = tf.distribute.get_replica_context().replica_id_in_sync_group
            return self.update([of_both[index] for of_both in gradients], {"loss": losses[index]})

        return {name: self.values(value) for name, value in self.strategy.run(in_replica).items()}

    def step(self, gradients=GRADIENTS, losses=(1.0, 2.0)) -> dict[str, list[float]]:
        """Takes one step and returns the metrics of each replica."""
        metrics = self._step([tf.constant(of_both) for of_both in gradients], tf.constant(losses))
        return {name: [float(value) for value in values] for name, values in metrics.items()}

    def values(self, distributed) -> list:
        return list(self.strategy.experimental_local_results(distributed))

    def weights(self) -> list[list[np.ndarray]]:
        return [[value.numpy() for value in self.values(weight.value)] for weight in self.update.weights]

    def everything(self) -> list[np.ndarray]:
        """Returns weights, slots, iterations and averages on each replica."""
        optimizer = [variable.value for variable in self.update.optimizer.variables]
        weights = [weight.value for weight in self.update.weights]
        return [one.numpy() for each in (*weights, *optimizer, *self.update.averages) for one in self.values(each)]


def spoiled(number: float, replica: int) -> list[np.ndarray]:
    """Returns the gradients with one number of one replica replaced."""
    gradients = [of_both.copy() for of_both in GRADIENTS]
    gradients[1][replica, 1, 0] = number
    return gradients


def assert_on_both(received: list[list[np.ndarray]], expected: list[np.ndarray]) -> None:
    for of_both, value in zip(received, expected, strict=True):
        assert len(of_both) == 2
        for one in of_both:
            np.testing.assert_allclose(one, value, rtol=1e-6)


def test_both_replicas_descend_the_mean_gradient():
    training = Training()
    metrics = training.step()
    assert_on_both(training.weights(), [start - 0.1 * mean for start, mean in zip(START, MEAN, strict=True)])
    assert metrics.pop("learning_rate") == pytest.approx([0.1, 0.1])
    assert metrics == {"loss": [1.5, 1.5], "gradient_norm": [13.0, 13.0], "num_skipped": [0.0, 0.0]}


@pytest.mark.parametrize(("clip_norm", "fraction"), [(6.5, 0.5), (13.0, 1.0), (100.0, 1.0)])
def test_clipping_uses_the_global_norm_of_the_mean_gradient(clip_norm, fraction):
    training = Training(clip_norm=clip_norm)
    metrics = training.step()
    # Clipping each replica's own gradient (norms 20.9 and 8.9) would give other factors.
    expected = [start - 0.1 * fraction * mean for start, mean in zip(START, MEAN, strict=True)]
    assert_on_both(training.weights(), expected)
    assert metrics["gradient_norm"] == [13.0, 13.0]


def test_running_average_is_updated_after_each_step():
    training = Training(ema_momentum=0.75)
    expected, weights = list(START), list(START)
    for _ in range(3):
        training.step()
        weights = [weight - 0.1 * mean for weight, mean in zip(weights, MEAN, strict=True)]
        expected = [0.75 * old + 0.25 * weight for old, weight in zip(expected, weights, strict=True)]
        assert_on_both([[one.numpy() for one in training.values(each)] for each in training.update.averages], expected)
    assert_on_both(training.weights(), weights)


def test_averaged_weights_are_swapped_in_and_restored():
    training = Training(momentum=0.9, ema_momentum=0.75)
    training.step()
    before = flat(training.everything())
    averages = [training.values(each)[0].numpy() for each in training.update.averages]
    with pytest.raises(KeyError), training.update.averaged_weights():
        assert_on_both(training.weights(), averages)
        raise KeyError
    assert flat(training.everything()).tobytes() == before.tobytes()
    without = Training()
    with without.update.averaged_weights():
        assert_on_both(without.weights(), START)


@pytest.mark.parametrize("replica", [0, 1])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_nonfinite_gradient_on_one_replica_skips_the_step_on_all(number, replica):
    training = Training(momentum=0.9, ema_momentum=0.5, skips_nonfinite=True)
    training.step()
    before = training.everything()
    metrics = training.step(spoiled(number, replica))
    assert metrics["num_skipped"] == [1.0, 1.0] and not np.isfinite(metrics["gradient_norm"]).any()
    np.testing.assert_array_equal(np.concatenate([one.ravel() for one in training.everything()]), flat(before))
    # This is the second applied step: momentum 0.9 of the first, and 2 iterations.
    assert training.step()["num_skipped"] == [1.0, 1.0]
    expected = [start - 0.1 * mean - 0.1 * (1.9 * mean) for start, mean in zip(START, MEAN, strict=True)]
    assert_on_both(training.weights(), expected)
    assert training.update.optimizer.iterations.numpy() == 2
    assert training.update.first_nonfinite.numpy() == 0


def flat(values: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([one.ravel() for one in values])


def test_nonfinite_loss_with_finite_gradient_is_skipped():
    training = Training(skips_nonfinite=True)
    assert training.step(losses=(1.0, np.nan))["num_skipped"] == [1.0, 1.0]
    assert_on_both(training.weights(), START)


def test_state_stays_as_before_the_first_nonfinite_step():
    training = Training(momentum=0.9, ema_momentum=0.5)
    training.step()
    training.step()
    before = flat(training.everything())
    training.step(spoiled(np.nan, 1))
    # More steps may follow before the host checks.
    training.step()
    training.step(spoiled(np.inf, 0))
    np.testing.assert_array_equal(flat(training.everything()), before)
    assert training.update.first_nonfinite.numpy() == 3
    assert training.update.num_skipped.numpy() == 0
