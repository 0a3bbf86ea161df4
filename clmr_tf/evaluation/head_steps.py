"""Steps of Adam on the weights of a head: one compiled loop, with no Python between the steps."""

import tensorflow as tf

NO_ROW = -1
"""Stands in a batch that the examples do not fill, and has no weight."""

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


# Compiled, one step of a linear head costs a tenth of what its operations cost one by one.
@tf.function(jit_compile=True, reduce_retracing=False)
def adam_steps(
    weights: list[tf.Tensor],
    first: list[tf.Tensor],
    second: list[tf.Tensor],
    inputs: tf.Tensor,
    targets: tf.Tensor,
    rows: tf.Tensor,
    first_step: tf.Tensor,
    learning_rate: tf.Tensor,
    weight_decay: tf.Tensor,
    keep: tf.Tensor,
    seed: tf.Tensor,
    single_label: bool,
    drops: bool,
) -> tuple[list[tf.Tensor], list[tf.Tensor], list[tf.Tensor]]:
    """Steps of Adam, one for each of `rows` [steps, batch]; gives weights and both moments back.

    Dropout keeps each value with a probability that is `keep` in 256ths.
    """

    def dropped(values: tf.Tensor, step: tf.Tensor, layer: int) -> tf.Tensor:
        if not drops:
            return values
        stream = tf.random.experimental.stateless_fold_in(tf.stack([seed, tf.cast(step, tf.int64)]), layer)
        # A byte for each value: a number of 32 bits for each would cost more than the step itself.
        num_values = values.shape.num_elements()
        words = tf.random.stateless_uniform([-(-num_values // 4)], stream, minval=None, maxval=None, dtype=tf.uint32)
        numbers = tf.reshape(tf.reshape(tf.bitcast(words, tf.uint8), [-1])[:num_values], values.shape)
        return tf.where(tf.cast(numbers, tf.float32) < 256 * keep, values / keep, 0.0)

    for index in tf.range(tf.shape(rows)[0]):
        step = first_step + index
        row = rows[index]
        share = tf.cast(row != NO_ROW, tf.float32)
        share /= tf.reduce_sum(share)
        x, y = tf.gather(inputs, tf.maximum(row, 0)), tf.gather(targets, tf.maximum(row, 0))
        with tf.GradientTape() as tape:
            tape.watch(weights)
            hidden = dropped(x, step, 0)
            if len(weights) == 4:
                hidden = dropped(tf.nn.relu(hidden @ weights[0] + weights[1]), step, 1)
            logits = hidden @ weights[-2] + weights[-1]
            if single_label:
                losses = tf.nn.softmax_cross_entropy_with_logits(y, logits)
            else:
                losses = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(y, logits), axis=1)
            loss = tf.reduce_sum(share * losses)
        gradients = tape.gradient(loss, weights)
        gradients = [gradient + weight_decay * weight for gradient, weight in zip(gradients, weights, strict=True)]
        first = [_BETA_1 * old + (1 - _BETA_1) * new for old, new in zip(first, gradients, strict=True)]
        second = [_BETA_2 * old + (1 - _BETA_2) * new * new for old, new in zip(second, gradients, strict=True)]
        count = tf.cast(step + 1, tf.float32)
        rate, correction = learning_rate / (1 - _BETA_1**count), tf.sqrt(1 - _BETA_2**count)
        weights = [
            weight - rate * mean / (tf.sqrt(square) / correction + _EPSILON)
            for weight, mean, square in zip(weights, first, second, strict=True)
        ]
    return weights, first, second
