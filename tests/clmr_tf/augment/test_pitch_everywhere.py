"""The pitch shift is heard to be the same eagerly, in tf.function, in Dataset.map and compiled by XLA."""

import numpy as np
import pytest

from clmr_tf.augment import pitch_shift
from tests.reference.pitch_measures import RATE_HZ, cents_off, sines

CENTS = np.array([-700, -100, 333, 700], np.float32)
TRIAD_HZ = (261.63, 329.63, 392.0)


def shifted_by_every_interval(run, audio):
    """float32 [intervals, samples]."""
    clips = np.tile(audio.astype(np.float32), [len(CENTS), 1])
    return run(lambda *arguments: pitch_shift(*arguments, RATE_HZ, 700.0), clips, CENTS)


def level_db(samples):
    # Without the ends, where a tone that is cut off rings.
    return 20 * np.log10(np.std(samples[2_000:-2_000]))


def test_a_tone_moves_by_the_interval_and_stays_as_loud(run):
    tone = sines([440.0])
    for cents, samples in zip(CENTS, shifted_by_every_interval(run, tone), strict=True):
        assert abs(cents_off(samples, 440.0 * 2 ** (cents / 1200))) < 0.5, cents
        assert level_db(samples) == pytest.approx(level_db(tone), abs=0.1), cents


def test_every_note_of_a_triad_moves_by_the_interval(run):
    triad = sines(TRIAD_HZ)
    for cents, samples in zip(CENTS, shifted_by_every_interval(run, triad), strict=True):
        off = [cents_off(samples, note_hz * 2 ** (cents / 1200)) for note_hz in TRIAD_HZ]
        assert np.abs(off).max() < 2, (cents, off)
        assert level_db(samples) == pytest.approx(level_db(triad), abs=0.6), cents
