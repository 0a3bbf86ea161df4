"""Noise: its ratio to the clip, its distribution, and its dependence on the seed."""

import numpy as np
import pytest

from clmr_tf.augment import add_noise
from clmr_tf.augment.effects.noise import Noise
from clmr_tf.config.augmentation import NoiseConfig, Range
from clmr_tf.errors import UsageError

RATIOS = np.array([1e-4, 3e-4, 1e-3, 2e-3, 5e-3, 1e-2, 0.1, 1.0], np.float32)


@pytest.fixture
def noise_clips():
    """Long enough for statistics: float32 [8, 30000]."""
    generator = np.random.default_rng(7)
    levels = np.linspace(0.01, 0.3, 8)[:, None]
    return (generator.standard_normal([8, 30_000]) * levels).astype(np.float32)


def noise_of(audio, ratios, seeds):
    return add_noise(audio, ratios, seeds).numpy().astype(np.float64) - audio


def test_noise_has_the_requested_ratio_to_each_clip(noise_clips, make_seeds):
    noise = noise_of(noise_clips, RATIOS, make_seeds(8))
    signal_db = 20 * np.log10(noise_clips.std(axis=1, dtype=np.float64))
    noise_db = 20 * np.log10(noise.std(axis=1))
    np.testing.assert_allclose(10 ** ((noise_db - signal_db) / 20), RATIOS, rtol=0.02)


def test_a_constant_offset_does_not_change_the_noise(make_seeds):
    tone = 0.2 * np.sin(np.arange(30_000) * 0.3)
    offset = np.stack([tone, tone + 0.5]).astype(np.float32)
    noise = noise_of(offset, np.array([0.01, 0.01], np.float32), make_seeds(2))
    np.testing.assert_allclose(noise.std(axis=1), 0.01 * 0.2 / np.sqrt(2), rtol=0.02)


def test_noise_is_white_and_gaussian_and_independent_between_clips(noise_clips, make_seeds):
    noise = noise_of(noise_clips, np.full(8, 0.5, np.float32), make_seeds(8))
    noise /= noise.std(axis=1, keepdims=True)
    num_samples = noise.shape[1]
    bound = 5 / np.sqrt(num_samples)
    assert np.abs(noise.mean(axis=1)).max() < bound
    for lag in (1, 2, 3, 10, 100, 1000):
        assert np.abs(np.mean(noise[:, lag:] * noise[:, :-lag], axis=1)).max() < bound
    power = np.square(np.abs(np.fft.rfft(noise)))[:, 1:]
    bands = power.reshape(8, 10, -1).mean(axis=(0, 2)) / power.mean()
    np.testing.assert_allclose(bands, 1, atol=5 / np.sqrt(power.size / 10))
    np.testing.assert_allclose(np.mean(noise**4), 3, atol=5 * np.sqrt(96 / noise.size))
    between_clips = noise @ noise.T / num_samples - np.eye(8)
    assert np.abs(between_clips).max() < bound
    assert np.abs(np.mean(noise * noise_clips / noise_clips.std(), axis=1)).max() < bound


def test_noise_of_a_clip_does_not_depend_on_the_batch(noise_clips, make_seeds):
    seeds = make_seeds(7)
    together = add_noise(noise_clips[:7], RATIOS[:7], seeds).numpy()
    reverse = add_noise(noise_clips[6::-1], RATIOS[6::-1], seeds[::-1]).numpy()
    np.testing.assert_array_equal(together, reverse[::-1])
    for row in range(7):
        alone = add_noise(noise_clips[row : row + 1], RATIOS[row : row + 1], seeds[row : row + 1])
        np.testing.assert_array_equal(alone[0], together[row])


def test_both_numbers_of_a_seed_change_the_noise(noise_clips, make_seeds):
    ratios = np.full(8, 0.5, np.float32)
    first = noise_of(noise_clips, ratios, make_seeds(8))
    for changed in ([0, 1], [1, 0]):
        second = noise_of(noise_clips, ratios, make_seeds(8) + np.array(changed, np.int32))
        correlation = np.mean(first * second, axis=1) / (first.std(axis=1) * second.std(axis=1))
        assert np.abs(correlation).max() < 5 / np.sqrt(first.shape[1])


def test_a_ratio_of_zero_changes_no_bit(noise_clips, make_seeds):
    some = np.where(np.arange(8) % 3 == 0, RATIOS, 0).astype(np.float32)
    noisy = add_noise(noise_clips, some, make_seeds(8)).numpy()
    np.testing.assert_array_equal(noisy[some == 0], noise_clips[some == 0])
    assert np.all(np.any(noisy[some > 0] != noise_clips[some > 0], axis=1))
    none = add_noise(noise_clips, np.zeros(8, np.float32), make_seeds(8))
    np.testing.assert_array_equal(none, noise_clips)


def test_transform_and_apply_agree_where_all_rows_are_augmented(noise_clips, make_seeds):
    augmentation = Noise(NoiseConfig(1.0, Range(0.01, 0.1)), sample_rate_hz=22_050)
    parameters = {"applied": np.full(8, True), "noise_to_signal": RATIOS, "seeds": make_seeds(8)}
    np.testing.assert_array_equal(
        augmentation.apply(noise_clips, parameters), augmentation.transform(noise_clips, parameters)
    )


@pytest.mark.parametrize("seeds", [np.zeros([8], np.int32), np.zeros([8, 2], np.int64), np.zeros([8, 3], np.int32)])
def test_invalid_seeds_are_rejected(noise_clips, seeds):
    with pytest.raises(UsageError, match=r"seeds must be int32 \[batch, 2\]"):
        add_noise(noise_clips, RATIOS, seeds)


def test_seeds_of_another_batch_size_are_rejected(noise_clips):
    with pytest.raises(UsageError, match="seeds must have one row for each of the 8 clips; received 4"):
        add_noise(noise_clips, RATIOS, np.zeros([4, 2], np.int32))
