"""A log-mel spectrogram computed by matrix products, which every runtime has; LiteRT has no Fourier transform."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

# Slaney's scale: linear up to 1,000 Hz, 200/3 Hz per mel; above, 27 mels make a factor of 6.4.
_HZ_PER_MEL = 200 / 3
_KNEE_HZ = 1000.0
_LOGARITHM_PER_MEL = np.log(6.4) / 27


class LogMel:
    """From audio to log(1 + 10,000 · power) in mel bands.

    Frames of a periodic Hann window that overlap by half, without padding, the squared magnitude of their discrete
    Fourier transform, and triangular bands of equal width on Slaney's mel scale from 0 Hz to the Nyquist frequency,
    each with an area of 1 (per hertz). These are the numbers of `librosa.feature.melspectrogram(center=False)` with its
    default scale, bands and power. The logarithm is that of musicnn (Pons and Serra 2019): silence gives 0.

    The cosines and sines of whole numbers of periods are symmetric or antisymmetric around the middle of a frame, and
    around a quarter of it. So the transform multiplies sums and differences of the four quarters of a windowed frame,
    which needs a quarter of the products.

    Call: float32 or float64 [batch, samples] -> the same type [batch, frames, bands].

    Args:
        sample_rate_hz: Sample rate of the audio.
        window_num_samples: Length of a frame, a multiple of 4. Frames overlap by half.
        num_bands: Number of bands.

    Attributes:
        window: The Hann window from sample 1 to the one before the middle, float64 [half - 1].
        matrices: Cosines and sines of even frequencies, then of odd ones, then the filters from powers to bands of even
            frequencies and of odd ones; float64. 0 Hz and the Nyquist frequency are left out, where all filters are 0.

    Raises:
        ValueError: If a band contains no frequency of the transform, or the window is no multiple of 4.
    """

    floor = 1e-4

    def __init__(self, sample_rate_hz: int, window_num_samples: int, num_bands: int) -> None:
        if window_num_samples < 4 or window_num_samples % 4:
            raise ValueError(f"window_num_samples must be a positive multiple of 4. Received: {window_num_samples}")
        self.window_num_samples, self.num_bands = window_num_samples, num_bands
        half, quarter = window_num_samples // 2, window_num_samples // 4
        bins = np.arange(1, half)
        filters = mel_filters(bins * sample_rate_hz / window_num_samples, sample_rate_hz, num_bands)
        self.window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1, half) / window_num_samples)

        def phases(samples: Sequence[int], frequencies: np.ndarray) -> np.ndarray:
            # First computed as integers, so they are exact.
            return 2 * np.pi * (np.outer(samples, frequencies) % window_num_samples) / window_num_samples

        before_quarter = list(range(1, quarter))
        even, odd = bins[1::2], bins[::2]
        self.matrices = (
            np.cos(phases([*before_quarter, quarter, half], even)),
            np.sin(phases(before_quarter, even)),
            np.cos(phases([*before_quarter, half], odd)),
            np.sin(phases([*before_quarter, quarter], odd)),
            filters[1::2],
            filters[::2],
        )

    def __call__(self, audio: tf.Tensor, zero: tf.Tensor | None = None) -> tf.Tensor:
        """The spectrogram of audio.

        Args:
            audio: The samples, of a static length.
            zero: A scalar 0 that is known only at run time. It is added to the matrices, so a converter does not treat
                them as constants and round them to 8 bits.
        """
        hop, quarter = self.window_num_samples // 2, self.window_num_samples // 4
        num_blocks = audio.shape[1] // hop
        blocks = tf.reshape(audio[:, : num_blocks * hop], [-1, num_blocks, hop])
        # A frame is two blocks. Its first sample has weight 0, and the first sample of the second block is its middle.
        first, middle, last = blocks[:, :-1, 1:], blocks[:, 1:, :1], tf.reverse(blocks[:, 1:, 1:], [2])
        constants = [tf.constant(matrix, audio.dtype) for matrix in (self.window, *self.matrices)]
        window, *matrices = constants if zero is None else [constant + zero for constant in constants]
        sums, differences = window * (first + last), window * (first - last)

        def quarters(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            """Samples before a quarter of the frame, at it, and those after it backwards."""
            before, at, after = tf.split(values, [quarter - 1, 1, quarter - 1], axis=2)
            return before, at, tf.reverse(after, [2])

        def product(matrix: tf.Tensor, *parts: tf.Tensor) -> tf.Tensor:
            return tf.reshape(tf.concat(parts, axis=2), [-1, matrix.shape[0]]) @ matrix

        even_cosines, even_sines, odd_cosines, odd_sines, even_filters, odd_filters = matrices
        before, at, after = quarters(sums)
        even = tf.square(product(even_cosines, before + after, at, middle))
        odd = tf.square(product(odd_cosines, before - after, middle))
        before, at, after = quarters(differences)
        even += tf.square(product(even_sines, before - after))
        odd += tf.square(product(odd_sines, before + after, at))
        bands = even @ even_filters + odd @ odd_filters
        # Not log1p, which LiteRT does not have.
        logarithms = tf.math.log(bands / self.floor + 1.0)
        return tf.reshape(logarithms, [-1, num_blocks - 1, self.num_bands])


def mel_filters(frequencies_hz: np.ndarray, sample_rate_hz: int, num_bands: int) -> np.ndarray:
    """Triangles of equal width on Slaney's mel scale from 0 Hz to the Nyquist frequency, each of area 1.

    Args:
        frequencies_hz: [frequencies], ascending.
        sample_rate_hz: Twice the Nyquist frequency.
        num_bands: Number of triangles.

    Returns:
        float64 [frequencies, bands], in 1/Hz.

    Raises:
        ValueError: If a triangle contains none of the frequencies.
    """
    edges_hz = _hz_of_mels(np.linspace(0, _mels_of_hz(sample_rate_hz / 2), num_bands + 2))
    low, centre, high = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    column = frequencies_hz[:, np.newaxis]
    triangles = np.minimum((column - low) / (centre - low), (high - column) / (high - centre))
    filters = np.maximum(triangles, 0) * 2 / (high - low)
    empty = np.flatnonzero(~filters.any(axis=0))
    if empty.size:
        first = empty[0]
        raise ValueError(
            "Every band must contain a frequency of the transform; use fewer bands or a longer window. Received: "
            f"{num_bands} bands at {sample_rate_hz} Hz, of which the one from {low[first]:.1f} to {high[first]:.1f} Hz "
            "contains none"
        )
    return filters


def _mels_of_hz(frequency_hz: float) -> float:
    if frequency_hz < _KNEE_HZ:
        return frequency_hz / _HZ_PER_MEL
    return _KNEE_HZ / _HZ_PER_MEL + np.log(frequency_hz / _KNEE_HZ) / _LOGARITHM_PER_MEL


def _hz_of_mels(mels: np.ndarray) -> np.ndarray:
    knee = _KNEE_HZ / _HZ_PER_MEL
    return np.where(mels < knee, mels * _HZ_PER_MEL, _KNEE_HZ * np.exp((mels - knee) * _LOGARITHM_PER_MEL))
