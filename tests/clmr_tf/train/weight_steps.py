"""One optimizer step as training takes it: in cross-replica context, one weight at a time."""

from collections.abc import Sequence

import keras
import tensorflow as tf


def take_step(
    strategy: tf.distribute.Strategy,
    optimizer: keras.Optimizer,
    variables: Sequence[keras.Variable],
    gradients: Sequence,
) -> None:
    learning_rate = tf.convert_to_tensor(optimizer.learning_rate)

    def change(variable, gradient):
        optimizer.update_step(gradient, variable, learning_rate)

    for variable, gradient in zip(variables, gradients, strict=True):
        strategy.extended.update(variable.value, change, args=(gradient,), group=False)
    optimizer.iterations.assign_add(1)
