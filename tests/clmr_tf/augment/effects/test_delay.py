"""Delay against impulses and a sample-by-sample transcription."""

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.augment import delay

RELEASED_DELAYS_MS = np.array([200, 250, 300, 350, 400, 450], np.float32)


def delay_sample_by_sample(audio, delay_ms, volume, sample_rate):
    """In float64, with the rounding of torchaudio-augmentations 0.2.4."""
    result = np.zeros(audio.shape)
    for row, clip in enumerate(audio.astype(np.float64)):
        offset = int(float(delay_ms[row]) * (sample_rate / 1000))
        for sample in range(len(clip)):
            copy = clip[sample - offset] if sample >= offset else 0.0
            result[row, sample] = (clip[sample] + volume[row] * copy) / 2
    return result


def test_impulse_is_repeated_once_at_its_time_and_level():
    audio = np.zeros([6, 12_000], np.float32)
    audio[:, 7] = 1.0
    volume = np.array([0.5, 0.2, 1.0, 0.0, 0.7, 0.5], np.float32)
    delayed = delay(audio, RELEASED_DELAYS_MS, volume, 22_050).numpy()
    # 250 ms are 5512.5 samples, rounded down.
    for row, offset in enumerate([4410, 5512, 6615, 7717, 8820, 9922]):
        expected = np.zeros(12_000, np.float32)
        expected[7] = 0.5
        expected[7 + offset] = volume[row] / 2
        np.testing.assert_array_equal(delayed[row], expected)


@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 22_050, 44_100])
def test_equals_a_transcription_at_any_rate(sample_rate, noise_clips):
    audio = noise_clips[:, :3000]
    delay_ms = np.array([0, 0.1, 1 / 3, 10, 20.5, 37, 64.999, 67], np.float32)
    volume = np.linspace(0, 1, 8, dtype=np.float32)
    np.testing.assert_allclose(
        delay(audio, delay_ms, volume, sample_rate),
        delay_sample_by_sample(audio, delay_ms, volume, sample_rate),
        rtol=0,
        atol=1e-7,
    )


@pytest.mark.parametrize("sample_rate", [11_025, 22_050, 48_000])
def test_whole_milliseconds_are_rounded_as_in_the_original(sample_rate):
    delay_ms = np.arange(0, 501, 3, dtype=np.float32)
    audio = np.zeros([len(delay_ms), 25_000], np.float32)
    audio[:, 0] = 1.0
    delayed = tf.function(delay)(audio, delay_ms, np.ones(len(delay_ms), np.float32), sample_rate).numpy()
    last = 24_999 - np.argmax(delayed[:, ::-1] != 0, axis=1)
    np.testing.assert_array_equal(last, [int(ms * (sample_rate / 1000)) for ms in range(0, 501, 3)])


def test_an_echo_after_the_end_is_dropped_and_does_not_wrap_around(noise_clips):
    delayed = delay(noise_clips, np.full(8, 1e6, np.float32), np.ones(8, np.float32), 22_050)
    np.testing.assert_array_equal(delayed, noise_clips / 2)
