"""A log-mel spectrogram computed by matrix products, which every runtime has; LiteRT has no Fourier transform."""

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

    The window and the cosines are symmetric around the middle of a frame, and the sines are antisymmetric. So the
    transform uses the sums and the differences of the two halves, which needs half of the products.

    Call: float32 or float64 [batch, samples] -> the same type [batch, frames, bands].

    Args:
        sample_rate_hz: Sample rate of the audio.
        window_num_samples: Length of a frame, even. Frames overlap by half.
        num_bands: Number of bands.

    Attributes:
        cosines: Windowed cosines of the frequencies within a band, float64 [window / 2, frequencies].
        sines: The sines, without the last row, which is zero, float64 [window / 2 - 1, frequencies].
        filters: From powers to bands, float64 [frequencies, bands].

    Raises:
        ValueError: If a band contains no frequency of the transform, or the window is odd.
    """

    floor = 1e-4

    def __init__(self, sample_rate_hz: int, window_num_samples: int, num_bands: int) -> None:
        if window_num_samples < 2 or window_num_samples % 2:
            raise ValueError(f"window_num_samples must be even and positive. Received: {window_num_samples}")
        self.window_num_samples = window_num_samples
        # 0 Hz and the Nyquist frequency are the ends of the outer triangles, which are zero there.
        bins = np.arange(1, window_num_samples // 2)
        self.filters = mel_filters(bins * sample_rate_hz / window_num_samples, sample_rate_hz, num_bands)
        # The window is 0 at the first sample of a frame and symmetric around the middle, which is the last sample here.
        samples = np.arange(1, window_num_samples // 2 + 1)[:, np.newaxis]
        window = 0.5 - 0.5 * np.cos(2 * np.pi * samples / window_num_samples)
        # The phases are first computed as integers, so they are exact.
        phases = 2 * np.pi * (samples * bins % window_num_samples) / window_num_samples
        self.cosines, self.sines = window * np.cos(phases), (window * np.sin(phases))[:-1]

    @property
    def num_constants(self) -> int:
        """The number of values in the matrices."""
        return self.cosines.size + self.sines.size + self.filters.size

    def __call__(self, audio: tf.Tensor, zero: tf.Tensor | None = None) -> tf.Tensor:
        """The spectrogram of audio.

        Args:
            audio: The samples, of a static length.
            zero: A scalar 0 that is known only at run time. It is added to the matrices, so a converter does not treat
                them as constants and round them to 8 bits.
        """
        hop = self.window_num_samples // 2
        num_blocks = audio.shape[1] // hop
        blocks = tf.reshape(audio[:, : num_blocks * hop], [-1, num_blocks, hop])
        # A frame is two blocks. Its first sample has weight 0, and the first sample of the second block is its middle.
        before, middle, after = blocks[:, :-1, 1:], blocks[:, 1:, :1], tf.reverse(blocks[:, 1:, 1:], [2])
        sums = tf.reshape(tf.concat([before + after, middle], axis=2), [-1, hop])
        differences = tf.reshape(before - after, [-1, hop - 1])
        matrices = [tf.constant(matrix, audio.dtype) for matrix in (self.cosines, self.sines, self.filters)]
        cosines, sines, filters = matrices if zero is None else [matrix + zero for matrix in matrices]
        bands = (tf.square(sums @ cosines) + tf.square(differences @ sines)) @ filters
        # Not log1p, which LiteRT does not have.
        logarithms = tf.math.log(bands / self.floor + 1.0)
        return tf.reshape(logarithms, [-1, num_blocks - 1, self.filters.shape[1]])


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
