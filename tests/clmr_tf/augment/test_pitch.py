"""Pitch shift: how many cents, how loud, how long, and that attacks stay attacks."""

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.augment import pitch_shift
from tests.clmr_tf.augment.golden import load_golden, read_clip
from tests.reference.pitch_measures import (
    NUM_SAMPLES,
    RATE_HZ,
    cents_off,
    click_spread_ms,
    click_train,
    click_width_ms,
    music_cents_off,
    sines,
)

CENTS = (-700, -333, -100, -1, 1, 100, 450, 700)
TONES_HZ = (82.4, 220.0, 440.0, 1234.5, 4000.0)
# Major and minor triads, a dominant seventh, a tone cluster in fourths, and a low open fifth.
CHORDS_HZ = (
    (261.63, 329.63, 392.0),
    (220.0, 261.63, 329.63),
    (196.0, 246.94, 293.66, 349.23),
    (440.0, 587.33, 783.99),
    (110.0, 164.81, 220.0),
)
MUSIC = (
    ("flare/forest-theme.ogg", 200_000),
    ("askyel/terminal.ogg", 150_000),
    ("marine/industrial.ogg", 90_000),
    ("unknown-horizons/battle.ogg", 120_000),
)


def shifted_by_every_interval(audio):
    """float32 [len(CENTS), samples]."""
    clips = np.tile(np.asarray(audio, np.float32), [len(CENTS), 1])
    return pitch_shift(clips, np.array(CENTS, np.float32), RATE_HZ, 700.0).numpy()


def level_db(samples):
    # Without the ends, where a tone that is cut off rings.
    return 20 * np.log10(np.std(samples[2_000:-2_000]))


@pytest.mark.parametrize("frequency_hz", TONES_HZ)
def test_tones_move_by_the_interval_and_stay_as_loud(frequency_hz):
    audio = sines([frequency_hz], num_harmonics=1)
    for cents, samples in zip(CENTS, shifted_by_every_interval(audio), strict=True):
        assert abs(cents_off(samples, frequency_hz * 2 ** (cents / 1200))) < 0.5, cents
        assert level_db(samples) == pytest.approx(level_db(audio), abs=0.1), cents


@pytest.mark.parametrize("num_harmonics", [1, 6])
@pytest.mark.parametrize("chord_hz", CHORDS_HZ)
def test_every_note_of_a_chord_moves_by_the_interval(chord_hz, num_harmonics):
    audio = sines(chord_hz, num_harmonics=num_harmonics)
    for cents, samples in zip(CENTS, shifted_by_every_interval(audio), strict=True):
        off = [cents_off(samples, note_hz * 2 ** (cents / 1200)) for note_hz in chord_hz]
        assert np.abs(off).max() < 2, (cents, off)
        assert level_db(samples) == pytest.approx(level_db(audio), abs=0.6), cents


@pytest.mark.parametrize("clip", MUSIC, ids=lambda clip: clip[0])
def test_music_moves_by_the_interval_and_stays_as_loud(clip):
    audio = read_clip(*clip)
    for cents, samples in zip(CENTS, shifted_by_every_interval(audio), strict=True):
        assert abs(music_cents_off(audio, samples, cents)) < 2.5, cents
        # What is beyond the Nyquist frequency is gone, and rightly so.
        spectrum = np.abs(np.fft.rfft(audio)) ** 2
        kept = spectrum[: int(len(spectrum) / max(1, 2 ** (cents / 1200)))].sum() / spectrum.sum()
        assert level_db(samples) == pytest.approx(level_db(audio) + 10 * np.log10(kept), abs=1), cents


def test_clicks_are_where_they_were_and_as_sharp_as_those_of_sox():
    golden, _ = load_golden("reference_pitch_clicks")
    cents = golden["cents"].astype(np.float32)
    clicks = np.tile(click_train().astype(np.float32), [len(cents), 1])
    for row, sox_spread_ms, sox_width_ms in zip(
        pitch_shift(clicks, cents, RATE_HZ).numpy(), golden["spread_ms"], golden["width_ms"], strict=True
    ):
        assert click_spread_ms(row) <= min(sox_spread_ms, 0.15)
        assert click_width_ms(row) <= min(sox_width_ms, 0.15)


def test_a_drum_over_a_chord_is_heard_once_at_its_time():
    audio = sines(CHORDS_HZ[0], peak=0.05)
    decay = np.exp(-np.arange(2_000) / 200) * np.random.default_rng(2).standard_normal(2_000)
    hits = np.array([9_000, 23_000, 41_000])
    for hit in hits:
        audio[hit : hit + 2_000] += 0.5 * decay
    for samples in shifted_by_every_interval(audio):
        envelope = np.sqrt(np.convolve(np.square(samples), np.ones(64) / 64, "same"))
        loud = np.flatnonzero(envelope > 0.5 * envelope.max())
        begins = loud[np.insert(np.diff(loud) > 4_000, 0, True)]
        assert len(begins) == 3
        # 7 ms; sox's clicks are up to 30 ms away.
        assert np.abs(begins - hits).max() < 150


def test_at_0_cents_nothing_is_heard_to_change(run):
    clips = np.array([read_clip(*clip) for clip in MUSIC[:2]])
    samples = run(lambda *arguments: pitch_shift(*arguments, RATE_HZ), clips, np.zeros(2, np.float32))
    error = np.mean(np.square(samples - clips), axis=1) / np.mean(np.square(clips), axis=1)
    assert 10 * np.log10(error).max() < -80
    noise = 0.1 * np.random.default_rng(8).standard_normal([1, NUM_SAMPLES]).astype(np.float32)
    error = np.mean(np.square(pitch_shift(noise, [0.0], RATE_HZ) - noise)) / np.mean(np.square(noise))
    assert 10 * np.log10(error) < -80


def test_nothing_beyond_the_nyquist_frequency_is_folded_back():
    fade = np.hanning(NUM_SAMPLES)
    for frequency_hz in (7_800, 9_000, 10_500):
        audio = fade * sines([frequency_hz], peak=0.5)
        heard = pitch_shift(audio[None].astype(np.float32), [700.0], RATE_HZ).numpy()[0]
        assert level_db(heard) < level_db(audio) - 60, frequency_hz
    # Below it, a tone comes through.
    audio = fade * sines([6_000], peak=0.5)
    assert level_db(pitch_shift(audio[None].astype(np.float32), [700.0], RATE_HZ).numpy()[0]) > level_db(audio) - 1


def test_images_of_the_interpolation_are_not_heard():
    fade = np.hanning(NUM_SAMPLES)
    for frequency_hz, floor_db in ((2_000, -80), (5_000, -60), (8_000, -45)):
        audio = (fade * sines([frequency_hz], peak=0.5)).astype(np.float32)
        heard = pitch_shift(audio[None], [-650.0], RATE_HZ).numpy()[0]
        spectrum = np.abs(np.fft.rfft(heard * fade))
        bins = np.fft.rfftfreq(NUM_SAMPLES, 1 / RATE_HZ)
        elsewhere = np.abs(bins - frequency_hz * 2 ** (-650 / 1200)) > 200
        assert 20 * np.log10(spectrum[elsewhere].max() / spectrum.max()) < floor_db, frequency_hz


@pytest.mark.parametrize(("sample_rate", "num_samples"), [(8_000, 20_736), (16_000, 43_470), (22_050, 5_000)])
def test_other_rates_and_lengths(sample_rate, num_samples):
    frequency_hz = 500.0
    times = np.arange(num_samples) / sample_rate
    tone = np.sin(2 * np.pi * frequency_hz * times).astype(np.float32)
    heard = pitch_shift(np.tile(tone, [2, 1]), [-700.0, 700.0], sample_rate).numpy()
    assert heard.shape == (2, num_samples)
    for samples, ratio in zip(heard, (2 ** (-7 / 12), 2 ** (7 / 12)), strict=True):
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(num_samples), 2**20))
        found_hz = np.argmax(spectrum) * sample_rate / 2**20
        assert abs(1200 * np.log2(found_hz / (frequency_hz * ratio))) < 3


def test_a_shift_beyond_the_largest_is_the_largest(noise_clips):
    beyond, largest = (
        pitch_shift(noise_clips, np.full(8, cents, np.float32), RATE_HZ, 500.0) for cents in (-900, -500)
    )
    np.testing.assert_array_equal(beyond, largest)


def test_the_bound_of_the_shift_changes_nothing_for_those_within_it(noise_clips):
    cents = np.linspace(-500, 500, 8, dtype=np.float32)
    narrow, wide = (pitch_shift(noise_clips, cents, RATE_HZ, bound) for bound in (500.0, 1200.0))
    np.testing.assert_allclose(narrow, wide, atol=1e-5)


def test_awkward_audio_stays_finite_and_silence_silent(run, awkward_audio):
    cents = np.tile([-700, 700], 4).astype(np.float32)
    heard = run(lambda *arguments: pitch_shift(*arguments, RATE_HZ), awkward_audio, cents)
    assert np.isfinite(heard).all()
    assert np.abs(heard).max() <= 2.5
    np.testing.assert_array_equal(heard.any(axis=1), awkward_audio.any(axis=1))


def test_quiet_music_is_shifted_like_loud_music():
    audio = read_clip(*MUSIC[0])[None]
    loud = pitch_shift(audio, [400.0], RATE_HZ).numpy()
    quiet = pitch_shift(audio * np.float32(1e-3), [400.0], RATE_HZ).numpy() * 1e3
    assert np.linalg.norm(quiet - loud) / np.linalg.norm(loud) < 1e-3


def test_equal_in_mixed_precision():
    audio = read_clip(*MUSIC[0])[None]
    expected = pitch_shift(audio, [300.0], RATE_HZ)
    policy = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        received = pitch_shift(audio, [300.0], RATE_HZ)
    finally:
        tf.keras.mixed_precision.set_global_policy(policy)
    assert received.dtype == tf.float32
    np.testing.assert_array_equal(received, expected)


def test_every_interval_is_the_same_to_the_bit_in_any_batch():
    clip = np.random.default_rng(6).standard_normal(2_000).astype(np.float32)
    cents = np.arange(-700, 701, 7, dtype=np.float32)
    shift = tf.function(lambda audio, by: pitch_shift(audio, by, RATE_HZ, 700.0))
    together = shift(np.tile(clip, [len(cents), 1]), cents).numpy()
    for size in (1, 3):
        for first in range(0, len(cents) - size, 17):
            part = shift(np.tile(clip, [size, 1]), cents[first : first + size])
            np.testing.assert_array_equal(part, together[first : first + size])
    np.testing.assert_array_equal(pitch_shift(np.tile(clip, [len(cents), 1]), cents, RATE_HZ, 700.0), together)
