"""Reverb against sox over the range of its parameters, and against its difference equations."""

import numpy as np
import pytest
from scipy import signal

from clmr_tf.augment import reverb
from tests.clmr_tf.augment.golden import load_golden

RATE_HZ = 22_050


def relative_error(received, expected):
    return np.linalg.norm(received - expected) / np.linalg.norm(expected)


def with_reverb(audio, *percents, sample_rate=RATE_HZ):
    return reverb(audio, *(np.full(len(audio), percent, np.float32) for percent in percents), sample_rate).numpy()


def test_equal_to_sox_on_a_chord_and_an_impulse():
    golden, _ = load_golden("reference_reverb")
    kept = golden.pop("kept_samples")
    inputs = {name: golden.pop(name) for name in ("chord", "impulse")}
    assert len(golden) == 10
    audio = np.array([inputs[key.split("_")[3]] for key in golden])
    percents = np.array([key.split("_")[:3] for key in golden], np.float32).T
    received = reverb(audio, *percents, RATE_HZ).numpy()
    assert received.dtype == np.float32 and received.shape == audio.shape
    for row, (key, expected) in zip(received, golden.items(), strict=True):
        assert relative_error(row[kept], expected) <= 2e-4, key


def test_equal_to_sox_on_music_over_all_parameters():
    golden, clips = load_golden("reference_reverb_music")
    kept = golden.pop("kept_samples")
    assert len(golden) == 27
    # At a fifth of its level, because sox would have clipped it.
    audio = np.array([np.float32(0.2) * clips[int(key[4])] for key in golden])
    percents = np.array([key.split("_")[1:] for key in golden], np.float32).T
    received = reverb(audio, *percents, RATE_HZ).numpy()
    errors = {key: relative_error(row[kept], golden[key]) for row, key in zip(received, golden, strict=True)}
    assert max(errors.values()) <= 3e-4, errors


def freeverb(samples, reverberance, damping, room_scale, sample_rate):
    """The filters in series in float64, as difference equations."""
    ratio = sample_rate / 44_100
    stretch, loss = 0.9 * room_scale / 100 + 0.1, 0.3 * damping / 100 + 0.2
    # The formula of docs/augmentations.md, equal to the longer one of sox.
    feedback = 1 - 0.7 ** (1 - reverberance / 100) * 0.02 ** (reverberance / 100)
    wet = 0
    for channel in (0, 1):
        total = 0
        for number, length in enumerate((1116, 1188, 1277, 1356, 1422, 1491, 1557, 1617)):
            delay = int(stretch * ratio * (length + 12 * channel * (-1) ** number) + 0.5)
            # y[t] = x[t-n] + g (1-d) s[t-n], s[t] = y[t] + d s[t-1]: multiplied out.
            numerator = np.concatenate([np.zeros(delay), [1, -loss]])
            denominator = np.zeros(delay + 1)
            denominator[:2] += [1, -loss]
            denominator[delay] -= feedback * (1 - loss)
            total = total + signal.lfilter(numerator, denominator, samples)
        for number, length in enumerate((225, 341, 441, 556)):
            delay = int(ratio * (length + 12 * channel * (-1) ** number) + 0.5)
            delayed = signal.lfilter([*np.zeros(delay), 1], [1, *np.zeros(delay - 1), -0.5], total)
            total = delayed - total
        wet = wet + total
    return samples + 0.015 * wet / 2


@pytest.mark.parametrize(("sample_rate", "num_samples"), [(8_000, 20_736), (16_000, 10_001), (22_050, 7_001)])
def test_equal_to_its_difference_equations_at_other_rates_and_lengths(sample_rate, num_samples):
    audio = 0.1 * np.random.default_rng(4).standard_normal([1, num_samples]).astype(np.float32)
    for percents in ((0, 0, 0), (33, 66, 99), (100, 0, 100)):
        received = with_reverb(audio, *percents, sample_rate=sample_rate)
        expected = np.array([freeverb(clip.astype(np.float64), *percents, sample_rate) for clip in audio])
        assert relative_error(received, expected) <= 1e-3, percents


@pytest.mark.parametrize("num_samples", [1, 2, 7, 101])
def test_clips_shorter_than_the_combs_equal_the_difference_equations(num_samples):
    audio = np.full([1, num_samples], 0.5, np.float32)
    for percents in ((0, 0, 0), (100, 0, 100)):
        received = with_reverb(audio, *percents)
        np.testing.assert_allclose(received, freeverb(audio[0].astype(np.float64), *percents, RATE_HZ)[None], atol=2e-4)
