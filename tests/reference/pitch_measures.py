"""Measures of pitch shifts: the interval in cents, and the spread of clicks. NumPy only."""

import numpy as np

RATE_HZ = 22_050
NUM_SAMPLES = 59_049
FIRST_CLICK_SAMPLE = RATE_HZ // 10


def sines(frequencies_hz, peak=0.2, num_harmonics=1):
    """Returns a sum of sines with harmonics that fall as 1/h, float64 [NUM_SAMPLES]."""
    times = np.arange(NUM_SAMPLES) / RATE_HZ
    return sum(
        peak / harmonic * np.sin(2 * np.pi * frequency * harmonic * times + place + harmonic)
        for place, frequency in enumerate(frequencies_hz)
        for harmonic in range(1, num_harmonics + 1)
    )


def click_samples(clicks_per_second=5):
    """Returns the positions of the clicks of a click train, int [clicks]."""
    return np.arange(FIRST_CLICK_SAMPLE, NUM_SAMPLES, round(RATE_HZ / clicks_per_second))


def click_train(peak=0.8, clicks_per_second=5):
    """Returns single-sample clicks, float64 [NUM_SAMPLES]."""
    clicks = np.zeros(NUM_SAMPLES)
    clicks[click_samples(clicks_per_second)] = peak
    return clicks


def cents_off(samples, frequency_hz, reach_cents=80):
    """Returns the distance in cents from a frequency to the strongest partial near it."""
    length = 2**18
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), length))
    bins = np.fft.rfftfreq(length, 1 / RATE_HZ)
    near = np.flatnonzero(np.abs(np.log2((bins + 1e-9) / frequency_hz)) <= reach_cents / 1200)
    peak = near[np.argmax(spectrum[near])]
    left, middle, right = np.log(spectrum[peak - 1 : peak + 2] + 1e-20)
    exact = peak + (left - right) / (2 * (left - 2 * middle + right))
    return 1200 * np.log2(exact / length * RATE_HZ / frequency_hz)


def music_cents_off(original, shifted, cents, reach_cents=60):
    """Returns the error in cents of a pitch shift of music, by correlation of the spectra.

    Average spectra on a cent scale, minus their envelopes, are correlated at every shift near the requested one.
    """
    scale = np.arange(np.log2(100), np.log2(3000), 1 / 1200)

    def fine_structure(samples):
        frames = np.lib.stride_tricks.sliding_window_view(samples, 4096)[::1024] * np.hanning(4096)
        average = np.abs(np.fft.rfft(frames, 16_384)).mean(axis=0)
        octaves = np.log2(np.fft.rfftfreq(16_384, 1 / RATE_HZ)[1:])
        levels = np.interp(scale, octaves, np.log(average[1:] + 1e-6))
        return levels - np.convolve(levels, np.ones(401) / 401, "same")

    before, after = fine_structure(original), fine_structure(shifted)
    correlations = []
    for shift in range(cents - reach_cents, cents + reach_cents + 1):
        low, high = (before[: len(before) - shift], after[shift:]) if shift >= 0 else (before[-shift:], after[:shift])
        correlations.append(np.corrcoef(low[300:-300], high[300:-300])[0, 1])
    peak = int(np.clip(np.argmax(correlations), 1, len(correlations) - 2))
    left, middle, right = correlations[peak - 1 : peak + 2]
    return peak + (left - right) / (2 * (left - 2 * middle + right)) - reach_cents


def click_spread_ms(samples, clicks_per_second=5):
    """Returns the RMS distance in milliseconds of a shifted click train's energy from the clicks."""
    clicks = click_samples(clicks_per_second)
    distance = np.min(np.abs(np.arange(NUM_SAMPLES)[:, None] - clicks), axis=1) / RATE_HZ * 1000
    energy = np.square(samples, dtype=np.float64)
    return np.sqrt(np.sum(energy * distance**2) / np.sum(energy))


def click_width_ms(samples, clicks_per_second=5):
    """Returns the mean RMS width in milliseconds of the clicks of a shifted click train."""
    half = round(RATE_HZ / clicks_per_second) // 2
    times = np.arange(2 * half) / RATE_HZ * 1000
    widths = []
    for click in click_samples(clicks_per_second):
        energy = np.square(samples[max(0, click - half) :][: 2 * half], dtype=np.float64)
        if click + half > NUM_SAMPLES or np.sum(energy) < 1e-9:
            continue
        middle = np.sum(energy * times) / np.sum(energy)
        widths.append(np.sqrt(np.sum(energy * (times - middle) ** 2) / np.sum(energy)))
    return float(np.mean(widths))
