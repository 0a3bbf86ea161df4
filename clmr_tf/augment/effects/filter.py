"""Low-pass and high-pass filters equal to julius': a windowed sinc per example, applied in the frequency domain."""

import math

import numpy as np
import tensorflow as tf

from clmr_tf.augment.effect import Augmentation, Parameters, as_audio, as_parameter, static_num_samples
from clmr_tf.augment.effects.fourier import fast_fft_length
from clmr_tf.augment.randomness import sample_range
from clmr_tf.config.augmentation import FilterConfig
from clmr_tf.errors import UsageError

_NUM_ZERO_CROSSINGS = 8
LOWEST_CUTOFF_HZ = 20.0


def lowpass(
    audio: tf.Tensor, cutoff_hz: tf.Tensor, sample_rate: int, lowest_cutoff_hz: float = LOWEST_CUTOFF_HZ
) -> tf.Tensor:
    """Removes frequencies above the cutoff: half amplitude (-6 dB) at the cutoff, no delay, unit gain at 0 Hz.

    The filter of `julius.lowpass_filter` 0.2.7, which the released code uses: a sinc with a Hann window of eight zero
    crossings on each side, so a lower cutoff has a longer filter. At both ends the clip is extended by repeating its
    first and last sample.

    Args:
        audio: float32 [batch, samples].
        cutoff_hz: float32 [batch], clipped to `lowest_cutoff_hz` and half the sample rate.
        sample_rate: Sample rate in Hz.
        lowest_cutoff_hz: Above 0; determines the static length of the filters.

    Returns:
        float32 [batch, samples].

    Raises:
        UsageError: If an argument has another dtype or shape.
    """
    audio = as_audio(audio)
    cutoff_hz = as_parameter(cutoff_hz, "cutoff_hz", audio)
    cutoff = tf.cast(tf.clip_by_value(cutoff_hz, lowest_cutoff_hz, sample_rate / 2), tf.float64) / sample_rate
    longest_half = _half_length(lowest_cutoff_hz / sample_rate)
    num_samples = static_num_samples(audio)
    edges = [tf.repeat(audio[:, at], longest_half, axis=1) for at in (slice(None, 1), slice(-1, None))]
    extended = tf.concat([edges[0], audio, edges[1]], axis=1)
    # The circular convolution wraps around before the first sample that is kept.
    fft_length = fast_fft_length(num_samples + 2 * longest_half)
    kernel = tf.signal.rfft(_kernel(cutoff, longest_half), [fft_length])
    filtered = tf.signal.irfft(tf.signal.rfft(extended, [fft_length]) * kernel, [fft_length])
    return filtered[:, 2 * longest_half : 2 * longest_half + num_samples]


def highpass(
    audio: tf.Tensor, cutoff_hz: tf.Tensor, sample_rate: int, lowest_cutoff_hz: float = LOWEST_CUTOFF_HZ
) -> tf.Tensor:
    """Removes frequencies below the cutoff: the audio minus its `lowpass`, with the same arguments and errors."""
    return audio - lowpass(audio, cutoff_hz, sample_rate, lowest_cutoff_hz)


def _half_length(cutoff: float) -> int:
    """Samples of a filter on each side of its centre; the cutoff is in cycles per sample."""
    return math.floor(_NUM_ZERO_CROSSINGS / cutoff / 2)


def _kernel(cutoff: tf.Tensor, longest_half: int) -> tf.Tensor:
    """Filters for cutoffs in cycles per sample, float64 [batch] -> float32 [batch, 2 * longest_half + 1]."""
    half = tf.floor(_NUM_ZERO_CROSSINGS / cutoff / 2)[:, tf.newaxis]
    times = np.arange(-longest_half, longest_half + 1, dtype=np.float64)
    window = tf.where(tf.abs(times) <= half, 0.5 + 0.5 * tf.cos(np.pi * times / half), 0.0)
    # sinc(0) is 1, which a time close to 0 gives without a division by zero.
    angle = 2 * np.pi * cutoff[:, tf.newaxis] * np.where(times == 0, 1e-9, times)
    kernel = window * tf.sin(angle) / angle
    return tf.cast(kernel / tf.reduce_sum(kernel, axis=1, keepdims=True), tf.float32)


class Filter(Augmentation):
    """A low-pass or high-pass filter with a random cutoff.

    Raises:
        UsageError: If the range of a cutoff goes above half the sample rate.
    """

    name = "filter"
    is_expensive = True

    def __init__(self, settings: FilterConfig, sample_rate_hz: int) -> None:
        super().__init__(settings.probability)
        self.settings = settings
        self.sample_rate_hz = sample_rate_hz
        highest_hz = max(settings.lowpass_cutoff_hz.maximum, settings.highpass_cutoff_hz.maximum)
        if highest_hz > sample_rate_hz / 2:
            raise UsageError(
                f"The cutoff of a filter must be at most half the sample rate, {sample_rate_hz / 2:g} Hz; "
                f"received {highest_hz:g} Hz, change filter.lowpass_cutoff_hz and filter.highpass_cutoff_hz."
            )
        self.lowest_cutoff_hz = min(settings.lowpass_cutoff_hz.minimum, settings.highpass_cutoff_hz.minimum)

    def draw_parameters(self, uniforms: tf.Tensor, seeds: tf.Tensor) -> Parameters:
        """Draws `is_lowpass` and the `cutoff_hz` of that filter."""
        is_lowpass = uniforms[:, 0] < self.settings.lowpass_chance
        lowpass_hz, highpass_hz = (
            sample_range(cutoffs_hz, uniforms[:, 1])
            for cutoffs_hz in (self.settings.lowpass_cutoff_hz, self.settings.highpass_cutoff_hz)
        )
        return {"is_lowpass": is_lowpass, "cutoff_hz": tf.where(is_lowpass, lowpass_hz, highpass_hz)}

    def transform(self, audio: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        """See `lowpass` and `highpass`."""
        low = lowpass(audio, parameters["cutoff_hz"], self.sample_rate_hz, self.lowest_cutoff_hz)
        return tf.where(parameters["is_lowpass"][:, tf.newaxis], low, audio - low)
