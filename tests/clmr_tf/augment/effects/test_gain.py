import numpy as np

from clmr_tf.augment import gain


def test_each_clip_is_multiplied_by_its_own_gain_and_not_clipped(noise_clips):
    gain_db = np.array([-20, -12.5, -6, -1, 0, 1, 6, 40], np.float32)
    louder = gain(noise_clips, gain_db).numpy()
    assert louder.dtype == np.float32 and louder.max() > 10
    expected = noise_clips * 10 ** (gain_db[:, None].astype(np.float64) / 20)
    np.testing.assert_allclose(louder, expected, rtol=1e-6)
    np.testing.assert_array_equal(louder[4], noise_clips[4])


def test_gain_of_a_clip_does_not_depend_on_its_place_in_the_batch():
    """Vectorised arithmetic treats the last rows of a batch differently from the first."""
    gain_db = np.random.default_rng(4).uniform(-20, -1, 303).astype(np.float32)
    audio = np.ones([303, 1], np.float32)
    together = gain(audio, gain_db).numpy()
    in_parts = [gain(audio[:30], gain_db[row : row + 30]) for row in range(3, 303, 30)]
    np.testing.assert_array_equal(np.concatenate(in_parts), together[3:])
