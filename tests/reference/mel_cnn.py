"""MelCNN in NumPy: a spectrogram by FFT, filters by their definition, and convolutions as sums over their taps."""

import numpy as np

from tests.reference.sample_cnn import normalize


def music(num_samples: int, rate_hz: int) -> np.ndarray:
    """Two clips, float32 [2, samples]: a chord under noise that falls by 60 dB, and a sweep over all frequencies."""
    seconds = np.arange(num_samples) / rate_hz
    noise = np.random.default_rng(7).uniform(-1, 1, num_samples) * 10 ** (-3 * seconds / seconds[-1])
    chord = sum(np.sin(2 * np.pi * frequency_hz * seconds) for frequency_hz in (110.0, 277.2, 1318.5, 3520.0))
    sweep = np.sin(2 * np.pi * (30 * seconds + 0.25 * rate_hz * seconds**2 / seconds[-1]))
    return np.stack([0.1 * chord + 0.2 * noise, 0.7 * sweep + 0.01 * noise]).astype(np.float32)


def mels_of(frequency_hz: float) -> float:
    """Slaney's scale: 3 mels in 200 Hz up to 1,000 Hz, then 27 mels in a factor of 6.4."""
    return 3 * frequency_hz / 200 if frequency_hz < 1000 else 15 + 27 * np.log(frequency_hz / 1000) / np.log(6.4)


def log_mel(audio: np.ndarray, rate_hz: int, window: int, num_bands: int) -> np.ndarray:
    """log(1 + 10,000 power) in triangular bands, [batch, samples] -> float64 [batch, frames, bands]."""
    hann = np.sin(np.pi * np.arange(window) / window) ** 2
    starts = range(0, audio.shape[1] - window + 1, window // 2)
    frames = np.stack([audio[:, start : start + window].astype(np.float64) * hann for start in starts], axis=1)
    power = np.abs(np.fft.rfft(frames)) ** 2
    frequencies_hz = np.arange(window // 2 + 1) * rate_hz / window
    # The scale is linear in pieces, so its inverse is an interpolation between many points.
    fine_hz = np.linspace(0, rate_hz / 2, 1_000_001)
    top = mels_of(rate_hz / 2)
    below, above = 3 * fine_hz / 200, 15 + 27 * np.log(np.maximum(fine_hz, 1) / 1000) / np.log(6.4)
    edges = np.interp(np.linspace(0, top, num_bands + 2), np.where(fine_hz < 1000, below, above), fine_hz)
    bands = np.zeros((*power.shape[:2], num_bands))
    for band in range(num_bands):
        low, centre, high = edges[band : band + 3]
        for bin_number, frequency_hz in enumerate(frequencies_hz):
            if low < frequency_hz < high:
                rising = frequency_hz <= centre
                slope = (frequency_hz - low) / (centre - low) if rising else (high - frequency_hz) / (high - centre)
                bands[:, :, band] += power[:, :, bin_number] * slope * 2 / (high - low)
    return np.log(1 + 10_000 * bands)


def convolve_images(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Cross-correlates [batch, rows, columns, in] with [3, 3, in, out], with zeros around."""
    rows, columns = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        padded[:, row : row + rows, column : column + columns] @ kernel[row, column]
        for row in range(3)
        for column in range(3)
    )


def mel_cnn(audio: np.ndarray, bands: dict, blocks: list[dict], embedding: dict, training: bool, **spectrogram):
    """Encodes [batch, samples] in float64.

    `bands` has `gamma`, `beta`, `mean`, `variance`; `blocks` and `embedding` also `kernel`. `spectrogram` are the
    arguments of `log_mel`. Returns the embedding, [batch, 512], and the running statistics of all normalisations.
    """
    statistics = []

    def normalized(values: np.ndarray, layer: dict) -> np.ndarray:
        rows = values.reshape(len(values), -1, values.shape[-1])
        settings = (layer[name] for name in ("gamma", "beta", "mean", "variance"))
        rows, mean, variance = normalize(rows, *settings, training)
        statistics.append((mean, variance))
        return rows.reshape(values.shape)

    images = normalized(log_mel(audio, **spectrogram), bands)[..., np.newaxis]
    for block in blocks:
        images = np.maximum(normalized(convolve_images(images, block["kernel"]), block), 0)
        count, rows, columns, channels = images.shape
        images = images[:, : rows // 2 * 2, : columns // 2 * 2]
        images = images.reshape(count, rows // 2, 2, columns // 2, 2, channels).max(axis=(2, 4))
    frames = images.mean(axis=2)
    pooled = frames.mean(axis=1) + frames.max(axis=1)
    return np.maximum(normalized(pooled @ embedding["kernel"], embedding), 0), statistics
