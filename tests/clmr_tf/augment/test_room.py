"""Reverb: equal to sox over the cube of its parameters, and what is heard of them."""

import numpy as np
import pytest
from scipy import signal

from clmr_tf.augment import reverb
from tests.clmr_tf.augment.golden import load_golden

RATE_HZ = 22_050


def relative_error(received, expected):
    return np.linalg.norm(received - expected) / np.linalg.norm(expected)


def in_room(audio, *percents, sample_rate=RATE_HZ):
    return reverb(audio, *(np.full(len(audio), percent, np.float32) for percent in percents), sample_rate).numpy()


def test_equal_to_sox_on_a_chord_and_an_impulse(run):
    golden, _ = load_golden("reference_reverb")
    kept = golden.pop("kept_samples")
    inputs = {name: golden.pop(name) for name in ("chord", "impulse")}
    assert len(golden) == 10
    audio = np.array([inputs[key.split("_")[3]] for key in golden])
    percents = np.array([key.split("_")[:3] for key in golden], np.float32).T
    received = run(lambda *arguments: reverb(*arguments, RATE_HZ), audio, *percents)
    assert received.dtype == np.float32 and received.shape == audio.shape
    for row, (key, expected) in zip(received, golden.items(), strict=True):
        assert relative_error(row[kept], expected) <= 2e-4, key


def test_equal_to_sox_on_music_over_the_whole_cube():
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
    """The filters one after the other in float64, as difference equations."""
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


@pytest.mark.parametrize(("sample_rate", "num_samples"), [(8_000, 20_736), (16_000, 43_470), (22_050, 7_001)])
def test_equal_to_its_difference_equations_at_other_rates_and_lengths(sample_rate, num_samples):
    audio = 0.1 * np.random.default_rng(4).standard_normal([3, num_samples]).astype(np.float32)
    for percents in ((0, 0, 0), (33, 66, 99), (100, 0, 100)):
        received = in_room(audio, *percents, sample_rate=sample_rate)
        expected = np.array([freeverb(clip.astype(np.float64), *percents, sample_rate) for clip in audio])
        assert relative_error(received, expected) <= 1e-3, percents


def decay_seconds(echoes, low_hz, high_hz):
    """Time in which the echoes of an impulse lose 60 dB in a band, by Schroeder's backward integration."""
    band = signal.butter(4, [low_hz, high_hz], "bandpass", fs=RATE_HZ, output="sos")
    energy = np.cumsum(np.square(signal.sosfilt(band, echoes.astype(np.float64)))[::-1])[::-1]
    level_db = 10 * np.log10(energy / energy[0])
    begin, end = np.argmax(level_db < -5), np.argmax(level_db < -25)
    return 3 * (end - begin) / RATE_HZ


def test_the_tail_lasts_as_long_as_the_feedback_says_and_damping_takes_the_high_frequencies(run):
    settings = [(20, 0), (40, 0), (60, 0), (60, 100), (40, 50), (70, 50)]
    reverberance, damping = np.array(settings, np.float32).T
    impulses = np.zeros([len(settings), 59_049], np.float32)
    impulses[:, 0] = 1
    in_large_room = np.full(len(settings), 100, np.float32)
    heard = run(lambda *arguments: reverb(*arguments, RATE_HZ), impulses, reverberance, damping, in_large_room)
    heard[:, 0] = 0
    bass = {setting: decay_seconds(echoes, 60, 200) for setting, echoes in zip(settings, heard, strict=True)}
    treble = {setting: decay_seconds(echoes, 4000, 8000) for setting, echoes in zip(settings, heard, strict=True)}
    # A comb loses its gain g at every round of 1116 to 1617 samples at 44,100 Hz; the longest lasts longest.
    for reverberance_percent, feedback in ((20, np.float64(0.656)), (40, np.float64(0.831)), (60, np.float64(0.917))):
        shortest, longest = (length / 44_100 * np.log(1e-3) / np.log(feedback) for length in (1116, 1617))
        assert shortest < bass[reverberance_percent, 0] < 1.1 * longest
    assert bass[70, 50] > 1.5 * bass[40, 50]
    assert treble[60, 100] < 0.6 * treble[60, 0]


def test_the_first_echo_comes_later_in_a_larger_room_and_the_clip_itself_stays():
    impulse = np.zeros([1, 12_000], np.float32)
    impulse[0, 100] = 1
    for room_scale in (0, 50, 100):
        heard = in_room(impulse, 50, 50, room_scale)[0]
        assert heard[100] == pytest.approx(1, abs=1e-5)
        first = 100 + int((0.9 * room_scale / 100 + 0.1) * 0.5 * 1116 + 0.5)
        # The all-passes let through a part at once; before the shortest comb there is nothing.
        assert np.abs(heard[101:first]).max() < 1e-5
        assert np.abs(heard[first : first + 2]).max() > 1e-3


@pytest.mark.parametrize("num_samples", [1, 2, 7, 101])
def test_clips_shorter_than_the_combs_stay_finite_and_hear_no_echo(num_samples):
    audio = np.full([1, num_samples], 0.5, np.float32)
    for percents in ((0, 0, 0), (100, 0, 100)):
        heard = in_room(audio, *percents)
        np.testing.assert_allclose(heard, freeverb(audio[0].astype(np.float64), *percents, RATE_HZ)[None], atol=2e-4)


def test_awkward_audio_stays_finite(run, awkward_audio):
    everything = np.full(8, 100, np.float32)
    heard = run(lambda *arguments: reverb(*arguments, RATE_HZ), awkward_audio, everything, everything, everything)
    assert np.isfinite(heard).all()
    np.testing.assert_array_equal(heard.any(axis=1), awkward_audio.any(axis=1))
