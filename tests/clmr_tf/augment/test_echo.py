"""The delay effect: when the echo comes, how loud it is, and what is halved."""

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.augment import delay

RELEASED_DELAYS_MS = np.array([200, 250, 300, 350, 400, 450], np.float32)


def delayed_slowly(audio, delay_ms, volume, sample_rate):
    """Sample by sample in float64, with the rounding of torchaudio-augmentations 0.2.4."""
    result = np.zeros(audio.shape)
    for row, clip in enumerate(audio.astype(np.float64)):
        offset = int(float(delay_ms[row]) * (sample_rate / 1000))
        for sample in range(len(clip)):
            copy = clip[sample - offset] if sample >= offset else 0.0
            result[row, sample] = (clip[sample] + volume[row] * copy) / 2
    return result


def test_impulse_comes_back_once_at_its_level_and_time(run):
    audio = np.zeros([6, 12_000], np.float32)
    audio[:, 7] = 1.0
    volume = np.array([0.5, 0.2, 1.0, 0.0, 0.7, 0.5], np.float32)
    delayed = run(lambda *arguments: delay(*arguments, 22_050), audio, RELEASED_DELAYS_MS, volume)
    assert delayed.dtype == np.float32
    # 250 ms are 5512.5 samples; the fraction is cut off.
    for row, offset in enumerate([4410, 5512, 6615, 7717, 8820, 9922]):
        expected = np.zeros(12_000, np.float32)
        expected[7] = 0.5
        expected[7 + offset] = volume[row] / 2
        np.testing.assert_array_equal(delayed[row], expected)


def test_autocorrelation_peaks_at_the_delay(run):
    noise = np.random.default_rng(3).standard_normal([6, 60_000]).astype(np.float32)
    volume = np.full(6, 0.5, np.float32)
    delayed = run(lambda *arguments: delay(*arguments, 22_050), noise, RELEASED_DELAYS_MS, volume)
    spectrum = np.fft.rfft(delayed, 2**17)
    correlation = np.fft.irfft(np.square(np.abs(spectrum)))[:, :30_000]
    peak = np.argmax(correlation[:, 100:], axis=1) + 100
    np.testing.assert_array_equal(peak, [4410, 5512, 6615, 7717, 8820, 9922])
    height = correlation[np.arange(6), peak] / correlation[:, 0]
    # Of white noise, v / (1 + v^2), less the part of the echo that the end of the clip cuts off.
    heard = (60_000 - peak) / 60_000
    np.testing.assert_allclose(height, 0.5 * heard / (1 + 0.25 * heard), atol=5 / np.sqrt(60_000))


@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 22_050, 44_100])
def test_equals_a_slow_transcription_at_any_rate(sample_rate, noise_clips):
    audio = noise_clips[:, :3000]
    delay_ms = np.array([0, 0.1, 1 / 3, 10, 20.5, 37, 64.999, 67], np.float32)
    volume = np.linspace(0, 1, 8, dtype=np.float32)
    np.testing.assert_allclose(
        delay(audio, delay_ms, volume, sample_rate),
        delayed_slowly(audio, delay_ms, volume, sample_rate),
        rtol=0,
        atol=1e-7,
    )


@pytest.mark.parametrize("sample_rate", [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000])
def test_whole_milliseconds_land_on_the_sample_of_the_original(sample_rate):
    delay_ms = np.arange(0, 501, dtype=np.float32)
    audio = np.zeros([501, 25_000], np.float32)
    audio[:, 0] = 1.0
    delayed = tf.function(delay)(audio, delay_ms, np.ones(501, np.float32), sample_rate)
    last = 24_999 - np.argmax(delayed.numpy()[:, ::-1] != 0, axis=1)
    np.testing.assert_array_equal(last, [int(ms * (sample_rate / 1000)) for ms in range(501)])


def test_an_echo_after_the_end_is_not_heard_and_nothing_wraps_around(run, noise_clips):
    delay_ms = np.full(8, 1e6, np.float32)
    delayed = run(lambda *arguments: delay(*arguments, 22_050), noise_clips, delay_ms, np.ones(8, np.float32))
    np.testing.assert_array_equal(delayed, noise_clips / 2)


def test_awkward_audio_stays_finite_and_in_range(run, awkward_audio):
    settings = np.tile([200, 450], 4).astype(np.float32), np.tile([0.5, 1.0], 4).astype(np.float32)
    delayed = run(lambda *arguments: delay(*arguments, 22_050), awkward_audio, *settings)
    assert np.all(np.isfinite(delayed))
    assert np.all(np.abs(delayed).max(axis=1) <= np.abs(awkward_audio).max(axis=1))


def test_a_broken_clip_stays_alone(noise_clips):
    noise_clips[3, 100] = np.nan
    delayed = delay(noise_clips, np.full(8, 100, np.float32), np.full(8, 0.5, np.float32), 22_050).numpy()
    assert np.all(np.isfinite(np.delete(delayed, 3, axis=0)))
