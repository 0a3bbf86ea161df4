import numpy as np

from clmr_tf.augment import polarity


def test_every_sample_is_negated(noise_clips):
    np.testing.assert_array_equal(polarity(noise_clips), np.negative(noise_clips))
