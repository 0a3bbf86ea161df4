"""The resampler against formulas and against soxr, with which corpora are prepared."""

import math

import numpy as np
import pytest
import soxr
import tensorflow as tf

from clmr_tf.audio.resampling import plan_block, resample_block

CROP = 20_000
RATES_HZ = [8000, 11025, 16000, 22051, 24000, 32000, 44100, 48000, 96000]


def crop_of(source: np.ndarray, source_rate_hz: int, offset_samples: int, sample_rate_hz: int = 22050) -> np.ndarray:
    """Resamples a crop of a source in memory, like the reader."""
    source = tf.constant(source, tf.float32)
    offset = tf.constant(offset_samples, tf.int64)
    return _crop(source, tf.constant(source_rate_hz), offset, sample_rate_hz=sample_rate_hz).numpy()


@tf.function(autograph=False)
def _crop(source, source_rate_hz, offset_samples, *, sample_rate_hz):
    block = plan_block(offset_samples, CROP, source_rate_hz, sample_rate_hz)
    start = tf.maximum(block.first_sample, 0)
    piece = source[start : block.first_sample + block.num_samples]
    before = start - block.first_sample
    piece = tf.pad(piece, [[before, block.num_samples - before - tf.size(piece, tf.int64)]])
    return resample_block(piece, block, CROP)


def decibels(ratio: float) -> float:
    return 20 * np.log10(ratio)


def noise_below(limit_hz: float, rate_hz: int, seconds: float, seed: int = 0) -> np.ndarray:
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(round(rate_hz * seconds)))
    spectrum[np.fft.rfftfreq(round(rate_hz * seconds), 1 / rate_hz) > limit_hz] = 0
    return 0.2 * np.fft.irfft(spectrum)


@pytest.mark.parametrize("source_rate_hz", RATES_HZ)
@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_equals_soxr(source_rate_hz, place):
    limit_hz = min(9000, 0.4 * source_rate_hz)
    source = noise_below(limit_hz, source_rate_hz, seconds=3)
    expected = soxr.resample(source, source_rate_hz, 22050, quality="VHQ")
    offset = {"start": 0, "middle": 23_457, "end": len(expected) - CROP}[place]
    expected = expected[offset : offset + CROP]
    crop = crop_of(source, source_rate_hz, offset)
    assert np.corrcoef(crop, expected)[0, 1] > 0.999999
    # At fractional ratios, soxr departs from band-limited interpolation in a stream's first two source samples.
    num_first = 2 * -(-22050 // source_rate_hz) if place == "start" else 0
    assert np.abs(crop - expected)[num_first:].max() < 5e-4
    assert np.abs(crop - expected).max() < 2e-2


@pytest.mark.parametrize("sample_rate_hz", [16000, 8000])
@pytest.mark.parametrize("source_rate_hz", [44100, 22050, 8000])
def test_other_corpus_rates_equal_soxr(source_rate_hz, sample_rate_hz):
    source = noise_below(3000, source_rate_hz, seconds=6)
    expected = soxr.resample(source, source_rate_hz, sample_rate_hz, quality="VHQ")[7001 : 7001 + CROP]
    crop = crop_of(source, source_rate_hz, 7001, sample_rate_hz)
    np.testing.assert_allclose(crop, expected, atol=2e-4)


def test_music_like_full_band_signal_equals_soxr():
    generator = np.random.default_rng(3)
    seconds = np.arange(3 * 44100) / 44100
    source = 0.1 * generator.standard_normal(len(seconds)) * np.exp(-8 * (seconds % 0.37))
    for partial in range(1, 40):
        source += 0.2 / partial * np.sin(2 * np.pi * 440 * partial * seconds + generator.uniform(0, 6))
    expected = soxr.resample(source, 44100, 22050, quality="VHQ")[11_111 : 11_111 + CROP]
    crop = crop_of(source, 44100, 11_111)
    error = np.sqrt(np.mean((crop - expected) ** 2) / np.mean(expected**2))
    assert decibels(error) < -60


@pytest.mark.parametrize("source_rate_hz", RATES_HZ)
def test_tone_keeps_frequency_level_and_phase(source_rate_hz):
    tone_hz = 0.35 * min(source_rate_hz, 22050)
    source = 0.5 * np.sin(2 * np.pi * tone_hz * np.arange(3 * source_rate_hz) / source_rate_hz + 0.7)
    offset = 21_001
    crop = crop_of(source, source_rate_hz, offset)
    expected = 0.5 * np.sin(2 * np.pi * tone_hz * (offset + np.arange(CROP)) / 22050 + 0.7)
    np.testing.assert_allclose(crop, expected, atol=2e-5)


@pytest.mark.parametrize("tone_hz", [11_100, 12_345, 16_000, 20_000])
def test_frequencies_above_the_new_nyquist_frequency_do_not_alias(tone_hz):
    source = np.sin(2 * np.pi * tone_hz * np.arange(3 * 44100) / 44100)
    crop = crop_of(source, 44100, 20_000)
    assert decibels(np.abs(crop).max()) < -80


@pytest.mark.parametrize("source_rate_hz", [8000, 16000])
def test_upsampling_makes_no_images(source_rate_hz):
    source = noise_below(0.45 * source_rate_hz, source_rate_hz, seconds=3)
    crop = crop_of(source, source_rate_hz, 20_000) * np.blackman(CROP)
    power = np.abs(np.fft.rfft(crop)) ** 2
    frequency_hz = np.fft.rfftfreq(CROP, 1 / 22050)
    images = power[frequency_hz > 0.51 * source_rate_hz].sum() / power.sum()
    assert 10 * np.log10(images) < -80


@pytest.mark.parametrize(
    ("source_rate_hz", "source_place", "place"), [(44100, 30_000, 15_000), (48000, 32_000, 14_700)]
)
def test_impulse_keeps_its_time(source_rate_hz, source_place, place):
    source = np.zeros(3 * source_rate_hz)
    source[source_place] = 1.0
    crop = crop_of(source, source_rate_hz, 5000)
    peak = int(np.argmax(crop))
    assert peak == place - 5000
    np.testing.assert_allclose(crop[peak - 200 : peak], crop[peak + 200 : peak : -1], atol=1e-6)
    assert np.abs(np.delete(crop, np.arange(peak - 250, peak + 251))).max() < 1e-6


@pytest.mark.parametrize("source_rate_hz", [16000, 44100, 48000])
def test_overlapping_crops_agree_at_every_phase(source_rate_hz):
    source = noise_below(7000, source_rate_hz, seconds=3)
    first = crop_of(source, source_rate_hz, 10_000)
    for shift in (1, 146, 147, 441, 5003):
        later = crop_of(source, source_rate_hz, 10_000 + shift)
        np.testing.assert_allclose(later[:-shift], first[shift:], atol=2e-6)


def test_equal_rates_pass_samples_through():
    source = np.random.default_rng(1).uniform(-1, 1, 40_000).astype(np.float32)
    np.testing.assert_array_equal(crop_of(source, 22050, 12_345), source[12_345 : 12_345 + CROP])


def test_beyond_the_end_there_is_silence():
    source = noise_below(7000, 44100, seconds=1)
    crop = crop_of(source, 44100, 12_050)
    assert np.abs(crop[:9_900]).max() > 0.1
    assert np.abs(crop[10_300:]).max() < 1e-6


@pytest.mark.parametrize("source_rate_hz", RATES_HZ)
def test_blocks_have_fast_transform_lengths(source_rate_hz):
    block = plan_block(tf.constant(98_765, tf.int64), 59_049, tf.constant(source_rate_hz), 22050)
    first_sample, num_samples, num_output_samples, crop_offset_samples = (int(value) for value in block)
    assert num_samples * 22050 == num_output_samples * source_rate_hz
    assert (98_765 - crop_offset_samples) * source_rate_hz == first_sample * 22050
    assert crop_offset_samples >= 220
    assert num_output_samples - crop_offset_samples - 59_049 >= 220
    period = 22050 // math.gcd(source_rate_hz, 22050)
    assert num_output_samples < 1.15 * (59_049 + 2 * period)
    num_periods = num_output_samples // period
    for prime in (2, 3, 5):
        while num_periods % prime == 0:
            num_periods //= prime
    assert num_periods == 1
