"""Polarity and gain, by what they do to every sample and to the level."""

import numpy as np
import pytest

from clmr_tf.augment import gain, polarity
from clmr_tf.errors import UsageError


def level_db(audio):
    return 10 * np.log10(np.mean(np.square(audio, dtype=np.float64), axis=-1))


def test_polarity_negates_every_sample(run, noise_clips):
    inverted = run(polarity, noise_clips)
    assert inverted.dtype == np.float32
    np.testing.assert_array_equal(inverted, np.negative(noise_clips))


def test_gain_changes_the_level_of_each_clip_by_its_own_decibels(run, noise_clips):
    gain_db = np.array([-20, -12.5, -6, -1, 0, 1, 6, 20], np.float32)
    louder = run(gain, noise_clips, gain_db)
    assert louder.dtype == np.float32
    np.testing.assert_allclose(level_db(louder) - level_db(noise_clips), gain_db, atol=1e-4)
    expected = noise_clips * 10 ** (gain_db[:, None].astype(np.float64) / 20)
    np.testing.assert_allclose(louder, expected, rtol=1e-6)


def test_gain_of_a_clip_does_not_depend_on_its_place_in_the_batch(run):
    """Vectorised arithmetic treats the last rows of a batch differently from the first."""
    gain_db = np.random.default_rng(4).uniform(-20, -1, 303).astype(np.float32)
    audio = np.ones([303, 1], np.float32)
    together = run(gain, audio, gain_db)
    in_parts = [run(gain, audio[:30], gain_db[row : row + 30]) for row in range(3, 303, 30)]
    np.testing.assert_array_equal(np.concatenate(in_parts), together[3:])


def test_six_decibels_are_about_half():
    halved = gain(np.ones([1, 4], np.float32), np.array([-6.0206], np.float32))
    np.testing.assert_allclose(halved, 0.5, rtol=1e-6)


def test_gain_of_zero_decibels_changes_no_bit(noise_clips):
    np.testing.assert_array_equal(gain(noise_clips, np.zeros(8, np.float32)), noise_clips)


def test_gain_does_not_clip():
    assert gain(np.ones([1, 4], np.float32), np.array([20.0], np.float32)).numpy().max() == pytest.approx(10)


def test_awkward_audio_stays_finite(awkward_audio):
    for result in (polarity(awkward_audio), gain(awkward_audio, np.tile([-20, 6], 4).astype(np.float32))):
        assert np.all(np.isfinite(result))


@pytest.mark.parametrize(
    ("audio", "gain_db", "message"),
    [
        (np.zeros([2, 9, 1], np.float32), np.zeros(2, np.float32), r"audio must be float32 \[batch, samples\]"),
        (np.zeros([9], np.float32), np.zeros(2, np.float32), r"audio must be float32 \[batch, samples\]"),
        (np.zeros([2, 9], np.float32), np.float32(-6), r"gain_db must be float32 \[batch\]"),
        (np.zeros([2, 9], np.float32), np.zeros([2, 1], np.float32), r"gain_db must be float32 \[batch\]"),
        (np.zeros([2, 9], np.float32), np.zeros([1], np.float32), "one row for each of the 2 clips; received 1"),
    ],
)
def test_wrong_shapes_are_refused_instead_of_broadcast(audio, gain_db, message):
    with pytest.raises(UsageError, match=message):
        gain(audio, gain_db)
