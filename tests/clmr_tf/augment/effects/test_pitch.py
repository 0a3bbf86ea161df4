"""Pitch shift: the interval in cents, the level, and that transients stay sharp and at their times."""

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.augment import pitch_shift
from clmr_tf.augment.effects.pitch import find_transients
from tests.clmr_tf.augment.golden import load_golden, read_clip
from tests.reference.pitch_measures import (
    NUM_SAMPLES,
    RATE_HZ,
    cents_off,
    click_samples,
    click_spread_ms,
    click_train,
    click_width_ms,
    music_cents_off,
    sines,
)

# Those of the golden numbers. All tests shift eight clips of this length where they can: one compilation for all.
CENTS = (-700, -500, -333, -100, 100, 333, 500, 700)
# Major and minor triads, a dominant seventh, a cluster of fourths, and a low open fifth.
CHORDS_HZ = (
    (261.63, 329.63, 392.0),
    (220.0, 261.63, 329.63),
    (196.0, 246.94, 293.66, 349.23),
    (440.0, 587.33, 783.99),
    (110.0, 164.81, 220.0),
)
MUSIC = (("flare/forest-theme.ogg", 200_000), ("unknown-horizons/battle.ogg", 120_000))


def shift(audio, cents=CENTS):
    """Shifts one clip or eight by eight intervals: float32 [8, samples]."""
    clips = np.broadcast_to(np.asarray(audio, np.float32), [8, NUM_SAMPLES])
    return pitch_shift(clips, np.array(cents, np.float32), RATE_HZ, 700.0).numpy()


def level_db(samples):
    # Without the ends, where a tone that is cut off rings.
    return 20 * np.log10(np.std(samples[..., 2_000:-2_000], axis=-1))


def drum_hits(decay_ms, hits_per_second):
    """Damped sines of 180 Hz with noise in them."""
    decay = np.exp(-np.arange(8_000) / (decay_ms / 1000 * RATE_HZ))
    sound = np.sin(2 * np.pi * 180 / RATE_HZ * np.arange(8_000))
    sound += 0.2 * np.random.default_rng(3).standard_normal(8_000)
    hits = np.convolve(click_train(0.3, hits_per_second), sound * decay)
    return hits[:NUM_SAMPLES]


@pytest.mark.parametrize("frequency_hz", [82.4, 440.0, 4000.0])
def test_tones_move_by_the_interval_at_the_same_level(frequency_hz):
    audio = sines([frequency_hz])
    for cents, samples in zip(CENTS, shift(audio), strict=True):
        assert abs(cents_off(samples, frequency_hz * 2 ** (cents / 1200))) < 0.5, cents
        assert level_db(samples) == pytest.approx(level_db(audio), abs=0.1), cents


@pytest.mark.parametrize(("chord_hz", "num_harmonics"), [(CHORDS_HZ[0], 1), *((chord, 6) for chord in CHORDS_HZ)])
def test_every_note_of_a_chord_moves_by_the_interval(chord_hz, num_harmonics):
    audio = sines(chord_hz, num_harmonics=num_harmonics)
    for cents, samples in zip(CENTS, shift(audio), strict=True):
        off = [cents_off(samples, note_hz * 2 ** (cents / 1200)) for note_hz in chord_hz]
        assert np.abs(off).max() < 2, (cents, off)
        assert level_db(samples) == pytest.approx(level_db(audio), abs=0.6), cents


@pytest.mark.parametrize("clip", MUSIC, ids=lambda clip: clip[0])
def test_music_moves_by_the_interval_at_the_same_level(clip):
    audio = read_clip(*clip)
    for cents, samples in zip(CENTS, shift(audio), strict=True):
        assert abs(music_cents_off(audio, samples, cents)) < 2.5, cents
        # What moves beyond the Nyquist frequency must be gone.
        spectrum = np.abs(np.fft.rfft(audio)) ** 2
        kept = spectrum[: int(len(spectrum) / max(1, 2 ** (cents / 1200)))].sum() / spectrum.sum()
        assert level_db(samples) == pytest.approx(level_db(audio) + 10 * np.log10(kept), abs=1), cents


@pytest.mark.parametrize("row", range(4), ids=("2.5", "5", "10", "13"))
def test_click_trains_are_spread_less_than_by_sox(row):
    golden, _ = load_golden("reference_pitch_click_rates")
    assert tuple(golden["cents"]) == CENTS
    clicks_per_second = golden["clicks_per_second"][row]
    shifted = shift(click_train(clicks_per_second=clicks_per_second))
    for samples, sox_spread_ms, sox_width_ms in zip(
        shifted, golden["spread_ms"][row], golden["width_ms"][row], strict=True
    ):
        assert click_spread_ms(samples, clicks_per_second) <= min(sox_spread_ms, 0.1)
        assert click_width_ms(samples, clicks_per_second) <= min(sox_width_ms, 0.1)


@pytest.mark.parametrize("clicks_per_second", [20, 40])
def test_denser_clicks_keep_their_times(clicks_per_second):
    for samples in shift(click_train(clicks_per_second=clicks_per_second)):
        assert click_spread_ms(samples, clicks_per_second) < 0.3


def test_irregular_clicks_of_different_levels_keep_their_times():
    generator = np.random.default_rng(4)
    places = np.cumsum(generator.integers(1_100, 5_000, 40))
    places = places[places < NUM_SAMPLES - 500]
    clicks = np.zeros(NUM_SAMPLES)
    clicks[places] = generator.uniform(0.1, 0.9, len(places))
    distance_ms = np.min(np.abs(np.arange(NUM_SAMPLES)[:, None] - places), axis=1) / RATE_HZ * 1000
    for samples in shift(clicks):
        energy = np.square(samples, dtype=np.float64)
        assert np.sqrt(np.sum(energy * distance_ms**2) / np.sum(energy)) < 0.1


@pytest.mark.parametrize("clicks_per_second", [5, 13])
def test_clicks_over_faint_noise_spread_no_more_than_the_noise(clicks_per_second):
    clicks = click_train(clicks_per_second=clicks_per_second)
    clicks += 0.0008 * np.random.default_rng(1).standard_normal(NUM_SAMPLES)
    of_input_ms = click_spread_ms(clicks, clicks_per_second)
    for samples in shift(clicks):
        assert click_spread_ms(samples, clicks_per_second) < 1.1 * of_input_ms


@pytest.mark.parametrize(("decay_ms", "hits_per_second"), [(5, 10), (10, 4)])
def test_drums_keep_their_peaks_and_their_level(decay_ms, hits_per_second):
    hits = drum_hits(decay_ms, hits_per_second)
    places = click_samples(hits_per_second)[:-1]

    def peaks(samples):
        return np.array([np.abs(samples[place - 200 : place + 1_500]).max() for place in places])

    for cents, samples in zip(CENTS, shift(hits), strict=True):
        assert np.abs(np.log(peaks(samples) / peaks(hits))).max() < np.log(1.2), cents
        assert abs(20 * np.log10(np.std(samples) / np.std(hits))) < 1, cents


@pytest.mark.parametrize("hits_per_second", [5, 13])
def test_a_chord_under_drums_moves_by_the_interval(hits_per_second):
    audio = sines(CHORDS_HZ[0], peak=0.05) + drum_hits(5, hits_per_second)
    for cents, samples in zip(CENTS, shift(audio), strict=True):
        off = [cents_off(samples, note_hz * 2 ** (cents / 1200)) for note_hz in CHORDS_HZ[0]]
        assert np.abs(off).max() < 2, (cents, off)


def test_drums_over_a_chord_occur_once_at_their_times():
    audio = sines(CHORDS_HZ[0], peak=0.05)
    decay = np.exp(-np.arange(2_000) / 200) * np.random.default_rng(2).standard_normal(2_000)
    hits = np.array([9_000, 23_000, 41_000])
    for hit in hits:
        audio[hit : hit + 2_000] += 0.5 * decay
    for samples in shift(audio):
        envelope = np.sqrt(np.convolve(np.square(samples), np.ones(64) / 64, "same"))
        loud = np.flatnonzero(envelope > 0.5 * envelope.max())
        onsets = loud[np.insert(np.diff(loud) > 4_000, 0, True)]
        assert len(onsets) == 3
        # 7 ms; sox's clicks are up to 30 ms off.
        assert np.abs(onsets - hits).max() < 150


def test_a_click_is_a_transient_and_steady_sounds_are_not():
    click = np.zeros(NUM_SAMPLES)
    click[30_021] = 0.5
    noise = np.random.default_rng(2).standard_normal(NUM_SAMPLES)
    audio = np.stack([click, sines([220.0]), sines([110.0, 164.81], num_harmonics=6), np.full(NUM_SAMPLES, 0.5), noise])
    centres, fractions = (values.numpy() for values in find_transients(audio.astype(np.float32), RATE_HZ))
    assert fractions.shape == centres.shape == (5, -(-NUM_SAMPLES // 64) + 1)
    near = np.abs(64 * np.arange(fractions.shape[1]) - 30_021) < 448
    np.testing.assert_array_equal(fractions[0, near], 1)
    np.testing.assert_allclose(64 * np.flatnonzero(near) + centres[0, near], 30_021, atol=0.01)
    # At the ends too, where one side of a sound is missing.
    assert fractions[1:].max() == 0


def test_zero_cents_change_nothing_audible():
    noise = 0.1 * np.random.default_rng(8).standard_normal(NUM_SAMPLES)
    clips = np.tile(np.array([*(read_clip(*clip) for clip in MUSIC), noise, click_train()]), [2, 1])
    error = np.mean(np.square(shift(clips, np.zeros(8)) - clips), axis=1) / np.mean(np.square(clips), axis=1)
    assert 10 * np.log10(error).max() < -80


def test_quiet_music_is_shifted_like_loud_music():
    audio = np.array([read_clip(*clip) for clip in MUSIC])
    shifted = shift(np.concatenate([audio, audio * 1e-3, audio, audio * 1e-3]), np.repeat([400, -300], 4))
    for loud, quiet in ((shifted[:2], shifted[2:4]), (shifted[4:6], shifted[6:])):
        assert np.linalg.norm(1e3 * quiet - loud) / np.linalg.norm(loud) < 1e-3


def test_aliases_and_images_are_inaudible():
    fade = np.hanning(NUM_SAMPLES)
    frequencies_hz = (7_800, 9_000, 10_500, 6_000, 2_000, 5_000, 8_000, 8_000)
    audio = np.array([fade * sines([frequency_hz], peak=0.5) for frequency_hz in frequencies_hz])
    shifted = shift(audio, [700] * 4 + [-650] * 4)
    changes_db = level_db(shifted) - level_db(audio)
    # The first three move beyond the Nyquist frequency.
    assert changes_db[:3].max() < -60 and changes_db[3] > -1
    bins_hz = np.fft.rfftfreq(NUM_SAMPLES, 1 / RATE_HZ)
    for row, floor_db in ((4, -80), (5, -60), (6, -45)):
        spectrum = np.abs(np.fft.rfft(shifted[row] * fade))
        elsewhere = np.abs(bins_hz - frequencies_hz[row] * 2 ** (-650 / 1200)) > 200
        assert 20 * np.log10(spectrum[elsewhere].max() / spectrum.max()) < floor_db


@pytest.mark.parametrize(("sample_rate", "num_samples"), [(8_000, 20_736), (16_000, 5_000)])
def test_other_sample_rates_and_lengths(sample_rate, num_samples):
    times = np.arange(num_samples) / sample_rate
    tone = np.sin(2 * np.pi * 500 * times).astype(np.float32)
    shifted = pitch_shift(np.tile(tone, [2, 1]), [-700.0, 700.0], sample_rate).numpy()
    assert shifted.shape == (2, num_samples)
    for samples, ratio in zip(shifted, (2 ** (-7 / 12), 2 ** (7 / 12)), strict=True):
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(num_samples), 2**20))
        found_hz = np.argmax(spectrum) * sample_rate / 2**20
        assert abs(1200 * np.log2(found_hz / (500 * ratio))) < 3


def test_shifts_are_clipped_to_the_largest_which_does_not_affect_those_within_it(noise_clips):
    cents = np.array([-900, *np.linspace(-500, 500, 7)], np.float32)
    narrow, wide = (pitch_shift(noise_clips, cents, RATE_HZ, largest).numpy() for largest in (500.0, 1200.0))
    np.testing.assert_allclose(narrow[1:], wide[1:], atol=1e-5)
    same = pitch_shift(noise_clips, np.maximum(cents, -500), RATE_HZ, 500.0)
    np.testing.assert_array_equal(narrow, same)
    assert np.abs(narrow[0] - wide[0]).max() > 1e-3


def test_every_interval_is_the_same_to_the_bit_in_any_batch():
    clip = np.random.default_rng(6).standard_normal(2_000).astype(np.float32)
    cents = np.arange(-700, 701, 7, dtype=np.float32)
    signature = [tf.TensorSpec([None, 2_000]), tf.TensorSpec([None])]
    shift_clips = tf.function(lambda audio, by: pitch_shift(audio, by, RATE_HZ, 700.0), input_signature=signature)
    together = shift_clips(np.tile(clip, [len(cents), 1]), cents).numpy()
    for row in range(0, len(cents), 9):
        np.testing.assert_array_equal(shift_clips(clip[None], cents[row : row + 1])[0], together[row])
