"""Checkpoints that were saved and restored with different numbers of replicas."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.train.checkpoints import Checkpoints, named_variables
from clmr_tf.train.distribution import build_strategy


def make_replicas() -> tf.distribute.Strategy:
    return build_strategy("mirrored", 2)


class Run:
    """A layer, its optimizer, a counter, and a variable with a value per replica."""

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self.strategy = strategy
        with strategy.scope():
            self.layer = keras.layers.Dense(3, name="dense")
            self.layer.build((None, 4))
            self.optimizer = keras.optimizers.Adam(0.1)
            self.optimizer.build(self.layer.trainable_variables)
            self.num_skipped = tf.Variable(0, dtype=tf.int64, trainable=False)
            self.own = tf.Variable(
                [0.0, 0.0],
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.MEAN,
            )

    def groups(self) -> dict[str, dict[str, tf.Variable]]:
        return {
            "encoder": named_variables(self.layer.variables),
            "optimizer": {str(index): variable.value for index, variable in enumerate(self.optimizer.variables)},
            "update": {"num_skipped": self.num_skipped, "own": self.own},
        }

    def values(self) -> dict[str, list[np.ndarray]]:
        """Returns the values of each variable on two replicas; on one device, its value twice."""
        groups = itertools.chain.from_iterable(group.items() for group in self.groups().values())
        local = {name: self.strategy.experimental_local_results(variable) for name, variable in groups}
        return {name: [one.numpy() for one in (ones * 2)[:2]] for name, ones in local.items()}

    def learn(self) -> None:
        def change() -> None:
            replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.float32)
            self.optimizer.apply([(1.0 + replica) * tf.ones_like(v) for v in self.layer.trainable_variables])
            self.own.assign_add([1.0 + replica, 3.0 + replica])

        self.strategy.run(change)
        self.num_skipped.assign_add(1)


STRATEGIES = {"one device": tf.distribute.get_strategy, "two replicas": make_replicas}


@pytest.mark.parametrize("inside", [False, True], ids=["outside the scope", "inside the scope"])
@pytest.mark.parametrize("reads", STRATEGIES)
@pytest.mark.parametrize("writes", STRATEGIES)
def test_checkpoint_restores_on_a_different_number_of_replicas(tmp_path, writes, reads, inside):
    run, other = Run(STRATEGIES[writes]()), Run(STRATEGIES[reads]())
    run.learn()
    run.learn()

    def within(strategy):
        return strategy.scope() if inside else tf.distribute.get_strategy().scope()

    with within(run.strategy):
        Checkpoints(tmp_path, run.groups(), keep=1).save(2)
    with within(other.strategy):
        assert Checkpoints(tmp_path, other.groups(), keep=1).restore() == 2
    expected, restored = run.values(), other.values()
    # Values per replica are saved as their mean, which every replica restores.
    own = [2.0, 6.0] if writes == "one device" else [3.0, 7.0]
    np.testing.assert_array_equal(restored.pop("own"), [own, own])
    del expected["own"]
    assert restored.keys() == expected.keys() and len(restored) == 2 + 6 + 1
    for name, values in expected.items():
        np.testing.assert_array_equal(restored[name], values, err_msg=name)
    assert restored["num_skipped"] == [2, 2] and restored["0"] == [2, 2]
