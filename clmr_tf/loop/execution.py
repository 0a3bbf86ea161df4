"""One or several training steps as one call, on all replicas."""

from collections.abc import Callable, Iterator

import tensorflow as tf

from clmr_tf.clips import BatchShare
from clmr_tf.distribution import num_workers, worker_index
from clmr_tf.trained_model import TrainedModel

Execution = Callable[[Iterator, tf.Tensor], dict[str, tf.Tensor]]
"""Takes the batches and a number of steps, does them, and gives the scalars of the last."""


def build_execution(
    model: TrainedModel, strategy: tf.distribute.Strategy, *, several_steps: bool, jit: bool
) -> Execution:
    """Makes the graph of the training.

    Args:
        model: Compiled and built in the scope of the strategy.
        strategy: The replicas.
        several_steps: Whether it is ever called for more than one step.
        jit: Compile the step with XLA; for one replica, since replicas cannot talk to each other from within XLA.
    """
    train_step = tf.function(model.train_step, jit_compile=True, autograph=False) if jit else model.train_step

    def one_step(batches: Iterator) -> dict[str, tf.Tensor]:
        watched = strategy.run(train_step, args=(batches.get_next(),))
        # The same on all replicas.
        return {name: strategy.experimental_local_results(value)[0] for name, value in watched.items()}

    # Without AutoGraph, which would rewrite the source of the whole model at every start: nothing in it needs that, and
    # it takes as long as all the rest of the tracing.
    @tf.function(autograph=False)
    def execute(batches: Iterator, num_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        if not several_steps:
            return one_step(batches)
        _, watched = tf.while_loop(
            lambda step, _watched: step < num_steps,
            lambda step, _watched: (step + 1, one_step(batches)),
            (tf.zeros_like(num_steps), {name: tf.zeros([]) for name in model.watched}),
        )
        return watched

    return execute


def distributed(
    strategy: tf.distribute.Strategy,
    build_dataset: Callable[[BatchShare], tf.data.Dataset],
    num_micro_batches: int,
) -> tf.data.Dataset:
    """The batches of this process's replicas, each replica's on its device."""
    num_replicas = strategy.num_replicas_in_sync
    num_local_replicas = num_replicas // num_workers(strategy)
    share = BatchShare(
        num_replicas=num_replicas,
        first_replica=worker_index(strategy) * num_local_replicas,
        num_local_replicas=num_local_replicas,
        num_micro_batches=num_micro_batches,
    )
    return strategy.distribute_datasets_from_function(lambda _: build_dataset(share))
