"""Measures how far each augmentation is from its reference, as a sentence for docs/augmentations.md.

Every `measure_*` takes a clip of music, float32 [samples].
"""

import numpy as np

from clmr_tf.augment import add_noise, delay, gain, highpass, lowpass, pitch_shift, polarity, reverb
from tests.clmr_tf.augment.golden import load_golden
from tests.reference.pitch_measures import cents_off, click_spread_ms, click_train, sines

RATE_HZ = 22_050
CHORD_HZ = (261.63, 329.63, 392.0)
# Pairs of notes a semitone apart, which is 6 to 11 Hz here.
CLUSTERS_HZ = tuple((low_hz, low_hz * 2 ** (1 / 12)) for low_hz in (98.0, 130.81, 146.83, 174.61))


def measure_polarity(clip: np.ndarray) -> str:
    """Largest difference from the formula."""
    return _difference(polarity(clip[None])[0].numpy(), -clip)


def measure_noise(clip: np.ndarray) -> str:
    """The measured ratio of noise to signal against the requested one."""
    ratios = np.geomspace(1e-4, 1e-2, 16).astype(np.float32)
    clips = np.tile(clip, [16, 1])
    noise = add_noise(clips, ratios, np.arange(32, dtype=np.int32).reshape(16, 2)).numpy().astype(np.float64) - clips
    off = np.abs(noise.std(axis=1) / clips.std(axis=1) / ratios - 1).max()
    return f"The measured ratio is within {100 * off:.1f} % of the drawn one (16 ratios from 40 to 80 dB)."


def measure_gain(clip: np.ndarray) -> str:
    """Largest difference from the formula."""
    return _difference(gain(clip[None], [-13.7])[0].numpy(), clip * 10 ** (-13.7 / 20))


def measure_filter(clip: np.ndarray) -> str:
    """Largest difference from julius over all golden numbers of music."""
    golden, clips = load_golden("reference_filters_music")
    kept, errors = golden.pop("kept_samples"), []
    for key, expected in golden.items():
        number, name, cutoff = key.split("_")
        audio = clips[int(number.removeprefix("clip"))]
        received = {"lowpass": lowpass, "highpass": highpass}[name](audio[None], [float(cutoff)], RATE_HZ)[0].numpy()
        errors.append(np.abs(received[kept] - expected).max() / np.abs(audio).max())
    return f"Largest error on music, {len(errors)} filters, edges included: {max(errors):.0e} of the peak."


def measure_delay(clip: np.ndarray) -> str:
    """Largest difference from the formula."""
    expected = clip.astype(np.float64)
    expected[7_717:] += 0.5 * clip[:-7_717]
    return _difference(delay(clip[None], [350.0], [0.5], RATE_HZ)[0].numpy(), expected / 2)


def measure_pitch(clip: np.ndarray) -> str:
    """Cents of chords and of notes a semitone apart, spread of clicks, and signal to error at 0 cents."""
    golden, _ = load_golden("reference_pitch_clicks")
    cents = golden["cents"].astype(np.float32)

    def shifted(audio: np.ndarray) -> np.ndarray:
        return pitch_shift(np.tile(np.asarray(audio, np.float32), [len(cents), 1]), cents, RATE_HZ).numpy()

    def largest_cents_off(notes_hz: tuple[float, ...]) -> float:
        intervals = zip(shifted(sines(notes_hz)), cents, strict=True)
        return max(abs(cents_off(chord, note * 2 ** (by / 1200))) for chord, by in intervals for note in notes_hz)

    spread, of_sox = [click_spread_ms(samples) for samples in shifted(click_train())], golden["spread_ms"]
    change = pitch_shift(clip[np.newaxis], [0.0], RATE_HZ)[0].numpy() - clip
    silence_db = 10 * np.log10(np.mean(change**2) / np.mean(clip**2))
    return (
        f"Notes of a chord are at most {largest_cents_off(CHORD_HZ):.1f} cents off over ±700 cents; of two notes a "
        f"semitone apart and below 185 Hz, one is up to {max(map(largest_cents_off, CLUSTERS_HZ)):.0f} cents off. The "
        f"energy of five clicks a second stays within {max(spread):.1f} ms of the clicks (sox: {min(of_sox):.0f} to "
        f"{max(of_sox):.0f} ms). At 0 cents the signal-to-error ratio is {-silence_db:.0f} dB."
    )


def measure_reverb(_: np.ndarray) -> str:
    """Relative error against sox over a grid of parameters."""
    golden, clips = load_golden("reference_reverb_music")
    kept = golden.pop("kept_samples")
    audio = np.array([np.float32(0.2) * clips[int(key[4])] for key in golden])
    percents = np.array([key.split("_")[1:] for key in golden], np.float32).T
    received = reverb(audio, *percents, RATE_HZ).numpy()[:, kept]
    errors = [
        np.linalg.norm(row - expected) / np.linalg.norm(expected)
        for row, expected in zip(received, golden.values(), strict=True)
    ]
    return f"Relative error on music over a grid of {len(errors)} settings: at most {max(errors):.0e} (L2)."


def _difference(received: np.ndarray, expected: np.ndarray) -> str:
    return f"Largest error: {np.abs(received - expected).max() / np.abs(expected).max():.0e} of the peak."
