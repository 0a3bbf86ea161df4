"""Low-pass and high-pass filters against julius, a slow transcription, and their levels."""

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.augment import highpass, lowpass
from clmr_tf.augment.effects.filter import LOWEST_CUTOFF_HZ, Filter
from clmr_tf.config.augmentation import FilterConfig, Range
from clmr_tf.errors import UsageError
from tests.clmr_tf.augment.golden import load_golden

FUNCTIONS = {"lowpass": lowpass, "highpass": highpass}
RATE_HZ = 22_050


def filter_slowly(audio, cutoff_hz, sample_rate):
    """julius' definition in float64: a windowed sinc of unit gain, the edges continued."""
    cutoff = cutoff_hz / sample_rate
    half = int(8 / cutoff / 2)
    times = np.arange(-half, half + 1)
    kernel = 2 * cutoff * np.sinc(2 * cutoff * times) * np.hanning(2 * half + 1)
    continued = np.pad(audio.astype(np.float64), half, mode="edge")
    return np.convolve(continued, kernel / kernel.sum(), "valid")


def test_equal_to_julius_on_noise():
    golden, _ = load_golden("reference_filters")
    kept, audio = golden.pop("kept_samples"), golden.pop("audio")
    assert len(golden) == 6
    for name, function in FUNCTIONS.items():
        cutoffs = [int(key.split("_")[1]) for key in golden if key.startswith(name)]
        clips = np.tile(audio, [len(cutoffs), 1])
        received = function(clips, np.array(cutoffs, np.float32), RATE_HZ).numpy()
        assert received.dtype == np.float32 and received.shape == clips.shape
        for row, cutoff in zip(received, cutoffs, strict=True):
            error = np.abs(row[kept] - golden[f"{name}_{cutoff}"]).max()
            assert error <= 2e-6 * np.abs(audio).max(), (name, cutoff)


def test_equal_to_julius_on_music():
    golden, clips = load_golden("reference_filters_music")
    kept = golden.pop("kept_samples")
    assert len(golden) == 18
    for key, expected in golden.items():
        clip, name, cutoff = key.split("_")
        audio = clips[int(clip.removeprefix("clip"))]
        received = FUNCTIONS[name](audio[None], [float(cutoff)], RATE_HZ)[0].numpy()[kept]
        assert np.abs(received - expected).max() <= 1e-5 * np.abs(audio).max(), key


@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 44_100])
def test_equal_to_the_definition_at_other_rates_and_lengths(sample_rate, noise_clips):
    audio = noise_clips[:, :5_001]
    cutoffs = np.array([41, 63.7, 200, 777.7, 1200, 2200, 3999, 4000], np.float32)
    received = lowpass(audio, cutoffs, sample_rate).numpy()
    for row, clip, cutoff in zip(received, audio, cutoffs, strict=True):
        expected = filter_slowly(clip, float(cutoff), sample_rate)
        np.testing.assert_allclose(row, expected, rtol=0, atol=3e-6 * np.abs(clip).max())


def test_levels_below_at_and_above_the_cutoff():
    cutoffs_hz = np.array([200, 700, 1200, 2200, 4000], np.float32)
    times = np.arange(20_000) / RATE_HZ
    inside = slice(5_000, 15_000)
    # The transition is a quarter of the cutoff wide to each side.
    for function, kept, gone in ((lowpass, 0.7, 1.35), (highpass, 1.35, 0.7)):
        frequencies_hz = np.outer([1, kept, gone], cutoffs_hz)
        tones = np.sin(2 * np.pi * frequencies_hz.reshape(-1, 1) * times).astype(np.float32)
        heard = function(tones, np.tile(cutoffs_hz, 3), RATE_HZ).numpy()
        levels_db = 20 * np.log10(np.std(heard[:, inside], axis=1) / np.std(tones[:, inside], axis=1))
        at_cutoff_db, kept_db, gone_db = levels_db.reshape(3, -1)
        np.testing.assert_allclose(at_cutoff_db, -6.02, atol=0.05)
        np.testing.assert_allclose(kept_db, 0, atol=0.1)
        assert gone_db.max() < -40


def test_filters_have_no_delay_and_add_up_to_the_clip(noise_clips):
    cutoffs = np.linspace(200, 4000, 8, dtype=np.float32)
    low, high = (function(noise_clips, cutoffs, RATE_HZ).numpy() for function in (lowpass, highpass))
    np.testing.assert_allclose(low + high, noise_clips, atol=1e-6)
    impulse = np.zeros([1, 9_001], np.float32)
    impulse[0, 4_500] = 1
    response = lowpass(impulse, [1000.0], RATE_HZ).numpy()[0]
    np.testing.assert_allclose(response, response[::-1], atol=1e-8)
    assert np.argmax(response) == 4_500


def test_a_constant_passes_the_lowpass_up_to_both_ends_and_not_the_highpass():
    audio = np.full([2, 12_000], 0.7, np.float32)
    low, high = (function(audio, np.array([200, 4000], np.float32), RATE_HZ) for function in (lowpass, highpass))
    np.testing.assert_allclose(low, 0.7, atol=1e-6)
    np.testing.assert_allclose(high, 0, atol=1e-6)


def test_cutoffs_are_clipped_to_the_lowest_and_to_half_the_sample_rate(noise_clips):
    lowest = np.full(8, LOWEST_CUTOFF_HZ, np.float32)
    np.testing.assert_array_equal(lowpass(noise_clips, lowest / 4, RATE_HZ), lowpass(noise_clips, lowest, RATE_HZ))
    highest = np.full(8, RATE_HZ / 2, np.float32)
    np.testing.assert_array_equal(lowpass(noise_clips, 2 * highest, RATE_HZ), lowpass(noise_clips, highest, RATE_HZ))


def test_the_lowest_cutoff_does_not_affect_cutoffs_above_it(noise_clips):
    cutoffs = np.linspace(200, 4000, 8, dtype=np.float32)
    short, long = (lowpass(noise_clips, cutoffs, RATE_HZ, lowest) for lowest in (200.0, 20.0))
    np.testing.assert_allclose(short, long, atol=1e-6)


def test_a_range_above_half_the_sample_rate_is_rejected():
    with pytest.raises(UsageError, match=r"at most half the sample rate, 4000 Hz; received 5000 Hz"):
        Filter(FilterConfig(lowpass_cutoff_hz=Range(2200, 5000)), 8_000)


def test_a_length_that_is_not_static_is_rejected():
    with pytest.raises(UsageError, match="length that is known"):
        tf.function(lambda audio: lowpass(audio, [1000.0], RATE_HZ)).get_concrete_function(
            tf.TensorSpec([1, None], tf.float32)
        )
