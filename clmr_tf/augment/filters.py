"""Low-pass and high-pass, equal to julius': a windowed sinc per example, applied in the spectrum."""

import math

import numpy as np
import tensorflow as tf

from clmr_tf.augment.augmentation import (
    ChosenRowsAugmentation,
    Parameters,
    as_audio,
    as_parameter,
    choose,
    static_num_samples,
)
from clmr_tf.augment.spectra import fast_fft_length
from clmr_tf.config.augmentation import FilterConfig
from clmr_tf.errors import UsageError

_NUM_ZERO_CROSSINGS = 8
LOWEST_CUTOFF_HZ = 20.0


def lowpass(
    audio: tf.Tensor, cutoff_hz: tf.Tensor, sample_rate: int, lowest_cutoff_hz: float = LOWEST_CUTOFF_HZ
) -> tf.Tensor:
    """Keeps what is below a frequency: half amplitude (-6 dB) at the cutoff, no delay, unit gain at 0 Hz.

    The filter of `julius.lowpass_filter` 0.2.7, which the released code uses: an ideal low-pass cut off after
    eight zero crossings on each side by a Hann window, so that a lower cutoff has a longer filter. Before its
    beginning and after its end a clip continues with its first and last sample.

    Args:
        audio: float32 [batch, samples].
        cutoff_hz: float32 [batch]; cutoffs above half the sample rate are lowered to it, those below
            `lowest_cutoff_hz` raised to that.
        sample_rate: In Hz.
        lowest_cutoff_hz: Above 0; sets the static length of the filters.

    Returns:
        float32 [batch, samples].

    Raises:
        UsageError: If an argument is of another type or shape.
    """
    audio = as_audio(audio)
    cutoff_hz = as_parameter(cutoff_hz, "cutoff_hz", audio)
    cutoff = tf.cast(tf.clip_by_value(cutoff_hz, lowest_cutoff_hz, sample_rate / 2), tf.float64) / sample_rate
    longest_half = _half_length(lowest_cutoff_hz / sample_rate)
    num_samples = static_num_samples(audio)
    edges = [tf.repeat(audio[:, at], longest_half, axis=1) for at in (slice(None, 1), slice(-1, None))]
    continued = tf.concat([edges[0], audio, edges[1]], axis=1)
    # Where the circular convolution wraps around is in front of the first sample that is kept.
    fft_length = fast_fft_length(num_samples + 2 * longest_half)
    kernel = tf.signal.rfft(_kernel(cutoff, longest_half), [fft_length])
    filtered = tf.signal.irfft(tf.signal.rfft(continued, [fft_length]) * kernel, [fft_length])
    return filtered[:, 2 * longest_half : 2 * longest_half + num_samples]


def highpass(
    audio: tf.Tensor, cutoff_hz: tf.Tensor, sample_rate: int, lowest_cutoff_hz: float = LOWEST_CUTOFF_HZ
) -> tf.Tensor:
    """Keeps what is above a frequency: the audio minus its `lowpass`, whose arguments and errors it shares."""
    return audio - lowpass(audio, cutoff_hz, sample_rate, lowest_cutoff_hz)


def _half_length(cutoff: float) -> int:
    """Samples of a filter on each side of its middle; the cutoff in cycles per sample."""
    return math.floor(_NUM_ZERO_CROSSINGS / cutoff / 2)


def _kernel(cutoff: tf.Tensor, longest_half: int) -> tf.Tensor:
    """Filters for cutoffs in cycles per sample, float64 [batch] -> float32 [batch, 2 * longest_half + 1]."""
    half = tf.floor(_NUM_ZERO_CROSSINGS / cutoff / 2)[:, tf.newaxis]
    times = np.arange(-longest_half, longest_half + 1, dtype=np.float64)
    window = tf.where(tf.abs(times) <= half, 0.5 + 0.5 * tf.cos(np.pi * times / half), 0.0)
    # The sinc of the middle is 1, which a place next to it gives without a division by zero.
    angle = 2 * np.pi * cutoff[:, tf.newaxis] * np.where(times == 0, 1e-9, times)
    kernel = window * tf.sin(angle) / angle
    return tf.cast(kernel / tf.reduce_sum(kernel, axis=1, keepdims=True), tf.float32)


class Filter(ChosenRowsAugmentation):
    """A low-pass or a high-pass, drawn per example with its cutoff.

    Raises:
        UsageError: If a cutoff could be drawn that is above half the sample rate.
    """

    name = "filter"

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
        """Draws `is_lowpass` and the `cutoff_hz` of the filter that it means."""
        is_lowpass = uniforms[:, 0] < self.settings.lowpass_chance
        lowpass_hz, highpass_hz = (
            choose(numbers, uniforms[:, 1])
            for numbers in (self.settings.lowpass_cutoff_hz, self.settings.highpass_cutoff_hz)
        )
        return {"is_lowpass": is_lowpass, "cutoff_hz": tf.where(is_lowpass, lowpass_hz, highpass_hz)}

    def transform(self, audio: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        """See `lowpass` and `highpass`."""
        low = lowpass(audio, parameters["cutoff_hz"], self.sample_rate_hz, self.lowest_cutoff_hz)
        return tf.where(parameters["is_lowpass"][:, tf.newaxis], low, audio - low)
