"""Transforming the chosen rows of a batch: which come out changed, and how many are computed for it."""

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.augment.augmentation import transform_chosen


def negate_and_add(audio, parameters):
    return parameters["offset"][:, tf.newaxis] - audio


@pytest.mark.parametrize("num_rows", [1, 3, 8, 20])
def test_chosen_rows_are_transformed_with_their_own_parameters_and_the_others_stay(run, num_rows):
    audio = np.random.default_rng(0).standard_normal([num_rows, 50]).astype(np.float32)
    offset = np.arange(num_rows, dtype=np.float32)
    chosen = np.arange(num_rows) % 3 == 0
    received = run(lambda *of: transform_chosen(negate_and_add, of[0], {"offset": of[1]}, of[2]), audio, offset, chosen)
    np.testing.assert_array_equal(received, np.where(chosen[:, None], offset[:, None] - audio, audio))


def test_up_to_seven_rows_of_a_batch_are_computed_in_vain():
    num_computed_rows = 0

    def count(audio, parameters):
        nonlocal num_computed_rows
        num_computed_rows += len(audio)
        return audio

    audio = tf.zeros([20, 50])
    for num_chosen in range(21):
        num_computed_rows = 0
        # From the end of the batch, where they are not together in a chunk by themselves.
        transform_chosen(count, audio, {}, tf.range(20) >= 20 - num_chosen)
        assert num_computed_rows == 8 * -(-num_chosen // 8)
