"""Pitch shift: attacks stay at their times, as sharp, and nearly as loud, however dense they are."""

import numpy as np
import pytest

from clmr_tf.augment import pitch_shift
from clmr_tf.augment.pitch import find_attacks
from tests.clmr_tf.augment.golden import load_golden
from tests.reference.pitch_measures import (
    NUM_SAMPLES,
    RATE_HZ,
    cents_off,
    click_samples,
    click_spread_ms,
    click_train,
    click_width_ms,
    sines,
)

CENTS = (-700, -333, -100, 100, 333, 700)


def shifted(audio, cents=CENTS):
    """float32 [len(cents), samples]."""
    clips = np.tile(np.asarray(audio, np.float32), [len(cents), 1])
    return pitch_shift(clips, np.array(cents, np.float32), RATE_HZ, 700.0).numpy()


def drum_hits(decay_ms, hits_per_second):
    """Damped sines of 180 Hz with noise in them."""
    decay = np.exp(-np.arange(8_000) / (decay_ms / 1000 * RATE_HZ))
    sound = np.sin(2 * np.pi * 180 / RATE_HZ * np.arange(8_000))
    sound += 0.2 * np.random.default_rng(3).standard_normal(8_000)
    hits = np.convolve(click_train(0.3, hits_per_second), sound * decay)
    return hits[:NUM_SAMPLES]


@pytest.mark.parametrize("place", range(4), ids=("2.5", "5", "10", "13"))
def test_no_click_train_is_spread_more_than_by_sox(place):
    golden, _ = load_golden("reference_pitch_click_rates")
    clicks_per_second = golden["clicks_per_second"][place]
    clicks = click_train(clicks_per_second=clicks_per_second)
    for cents, samples, sox_spread_ms, sox_width_ms in zip(
        golden["cents"],
        shifted(clicks, golden["cents"]),
        golden["spread_ms"][place],
        golden["width_ms"][place],
        strict=True,
    ):
        assert click_spread_ms(samples, clicks_per_second) <= min(sox_spread_ms, 0.1), cents
        assert click_width_ms(samples, clicks_per_second) <= min(sox_width_ms, 0.1), cents


@pytest.mark.parametrize("clicks_per_second", [20, 30, 40])
def test_denser_clicks_stay_where_they_are(clicks_per_second):
    for samples in shifted(click_train(clicks_per_second=clicks_per_second)):
        assert click_spread_ms(samples, clicks_per_second) < 0.3


def test_irregular_clicks_of_any_loudness_stay_where_they_are():
    generator = np.random.default_rng(4)
    places = np.cumsum(generator.integers(1_100, 5_000, 40))
    places = places[places < NUM_SAMPLES - 500]
    clicks = np.zeros(NUM_SAMPLES)
    clicks[places] = generator.uniform(0.1, 0.9, len(places))
    distance_ms = np.min(np.abs(np.arange(NUM_SAMPLES)[:, None] - places), axis=1) / RATE_HZ * 1000
    for samples in shifted(clicks):
        energy = np.square(samples, dtype=np.float64)
        assert np.sqrt(np.sum(energy * distance_ms**2) / np.sum(energy)) < 0.1


@pytest.mark.parametrize("clicks_per_second", [5, 10, 13])
def test_clicks_over_faint_noise_spread_no_more_than_the_noise(clicks_per_second):
    clicks = click_train(clicks_per_second=clicks_per_second)
    clicks += 0.0008 * np.random.default_rng(1).standard_normal(NUM_SAMPLES)
    of_input_ms = click_spread_ms(clicks, clicks_per_second)
    for samples in shifted(clicks):
        assert click_spread_ms(samples, clicks_per_second) < 1.1 * of_input_ms


@pytest.mark.parametrize("hits_per_second", [4, 10])
@pytest.mark.parametrize("decay_ms", [5, 10])
def test_drums_keep_their_peaks_and_their_level(decay_ms, hits_per_second):
    hits = drum_hits(decay_ms, hits_per_second)
    places = click_samples(hits_per_second)[:-1]

    def peaks(samples):
        return np.array([np.abs(samples[place - 200 : place + 1_500]).max() for place in places])

    for cents, samples in zip(CENTS, shifted(hits), strict=True):
        assert np.abs(np.log(peaks(samples) / peaks(hits))).max() < np.log(1.2), cents
        assert abs(20 * np.log10(np.std(samples) / np.std(hits))) < 1, cents


@pytest.mark.parametrize("hits_per_second", [5, 13])
def test_a_chord_under_drums_moves_by_the_interval(hits_per_second):
    chord_hz = (261.63, 329.63, 392.0)
    audio = sines(chord_hz, peak=0.05) + drum_hits(5, hits_per_second)
    for cents, samples in zip(CENTS, shifted(audio), strict=True):
        off = [cents_off(samples, note_hz * 2 ** (cents / 1200)) for note_hz in chord_hz]
        assert np.abs(off).max() < 2, (cents, off)


def test_a_click_is_found_and_steady_sounds_are_no_attacks():
    click = np.zeros(NUM_SAMPLES)
    click[30_021] = 0.5
    noise = np.random.default_rng(2).standard_normal(NUM_SAMPLES)
    audio = np.stack([click, sines([220.0]), sines([110.0, 164.81], num_harmonics=6), np.full(NUM_SAMPLES, 0.5), noise])
    centres, shares = (values.numpy() for values in find_attacks(audio.astype(np.float32), RATE_HZ))
    assert shares.shape == centres.shape == (5, -(-NUM_SAMPLES // 64) + 1)
    near = np.abs(64 * np.arange(shares.shape[1]) - 30_021) < 448
    np.testing.assert_array_equal(shares[0, near], 1)
    np.testing.assert_allclose(64 * np.flatnonzero(near) + centres[0, near], 30_021, atol=0.01)
    # At the ends, too, where one side of a sound is missing.
    assert shares[1:].max() == 0
