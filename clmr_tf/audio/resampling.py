"""Band-limited resampling of a crop by Fourier transform, in a graph.

A rate change by out/in = p/q (in lowest terms) maps every q-th source sample exactly to every p-th output sample. So a
block of k * q source samples that starts at a multiple of q is transformed, its spectrum truncated or zero-padded to
that of k * p output samples, and transformed back. This needs no filter bank, works for any pair of integer rates, and
the times of the output samples do not depend on the position of the crop. The block extends beyond the crop on both
sides, which keeps the circular wrap-around of the transform out of the crop.

The roll-off is that of soxr's quality VHQ, with which corpora are prepared: half amplitude at 0.9557 of the lower
Nyquist frequency, flat to 1e-4 up to 0.918 of it.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from clmr_tf.audio.downmix import mono_weights

# The response of soxr 1.1.0, quality VHQ, measured with impulses for seven pairs of rates. An integrated Gaussian
# with this centre and standard deviation (in Nyquist frequencies of the lower rate) differs by at most 0.003 from it.
_ROLL_OFF_CENTRE, _ROLL_OFF_WIDTH = 0.9557, 0.0101

# At the lower of the two rates. Beyond it, the filter's impulse response is below 1e-9 of its peak.
_MARGIN_SAMPLES = 220

_LOWEST_SOURCE_RATE_HZ = 1000


class SourceBlock(NamedTuple):
    """The part of a source that a crop is computed from. All are int64 scalars.

    Attributes:
        first_sample: Start of the block in the source; negative if the margin starts before the file.
        num_samples: Length of the block at the source's rate.
        num_output_samples: Length of the block at the output rate.
        crop_offset_samples: Start of the crop in the block, at the output rate.
    """

    first_sample: tf.Tensor
    num_samples: tf.Tensor
    num_output_samples: tf.Tensor
    crop_offset_samples: tf.Tensor


def mono_weights_of(num_channels: tf.Tensor) -> tf.Tensor:
    """`clmr_tf.audio.downmix.mono_weights` of an int32 scalar tensor."""
    most = 8
    table = np.zeros([most + 1, most], np.float32)
    for count in range(1, most + 1):
        table[count, :count] = mono_weights(count)
    mean = tf.fill([num_channels], 1.0 / tf.cast(num_channels, tf.float32))
    is_known = num_channels <= most
    return tf.cond(is_known, lambda: tf.gather(tf.constant(table), num_channels)[:num_channels], lambda: mean)


def plan_block(
    offset_samples: tf.Tensor, num_samples: int, source_rate_hz: tf.Tensor, sample_rate_hz: int
) -> SourceBlock:
    """Plans which source samples a crop needs.

    Args:
        offset_samples: First sample of the crop at `sample_rate_hz`, int64 scalar.
        num_samples: Length of the crop at `sample_rate_hz`.
        source_rate_hz: Rate of the source, integer scalar, at least 1000.
        sample_rate_hz: Rate of the crop.

    Returns:
        A block with the crop and the filter's margins, of a length with a fast transform.
    """
    source_rate_hz = tf.cast(source_rate_hz, tf.int64)
    divisors = tf.constant([d for d in range(1, sample_rate_hz + 1) if sample_rate_hz % d == 0], tf.int64)
    common = tf.reduce_max(tf.where(source_rate_hz % divisors == 0, divisors, 1))
    source_period, period = source_rate_hz // common, sample_rate_hz // common

    margin = _ceil_div(_MARGIN_SAMPLES * sample_rate_hz, tf.minimum(source_rate_hz, sample_rate_hz))
    first_period = (offset_samples - margin) // period
    crop_offset = offset_samples - first_period * period
    longest = 2 * num_samples + 4 * _MARGIN_SAMPLES * max(1, -(-sample_rate_hz // _LOWEST_SOURCE_RATE_HZ))
    lengths = tf.constant(_smooth_numbers(longest))
    num_periods = lengths[tf.searchsorted(lengths, [_ceil_div(crop_offset + num_samples + margin, period)])[0]]
    return SourceBlock(first_period * source_period, num_periods * source_period, num_periods * period, crop_offset)


def resample_block(samples: tf.Tensor, block: SourceBlock, num_samples: int) -> tf.Tensor:
    """Computes a crop from the samples of its block.

    Args:
        samples: float32 [block.num_samples] at the source's rate; zero outside the file.
        block: From `plan_block`.
        num_samples: Length of the crop, as given to `plan_block`.

    Returns:
        float32 [num_samples]; if the rates are equal, the samples of the source.
    """
    same_rate = tf.equal(block.num_samples, block.num_output_samples)
    output = tf.cond(same_rate, lambda: samples, lambda: _resample(samples, block))
    return tf.ensure_shape(tf.slice(output, [block.crop_offset_samples], [num_samples]), [num_samples])


def _resample(samples: tf.Tensor, block: SourceBlock) -> tf.Tensor:
    num_shared_bins = tf.minimum(block.num_samples, block.num_output_samples) // 2 + 1
    num_output_bins = block.num_output_samples // 2 + 1
    spectrum = tf.signal.rfft(samples)[:num_shared_bins]
    frequency = tf.cast(tf.range(num_shared_bins), tf.float32) / tf.cast(num_shared_bins - 1, tf.float32)
    response = 0.5 * tf.math.erfc((frequency - _ROLL_OFF_CENTRE) / (_ROLL_OFF_WIDTH * np.sqrt(2.0)))
    scale = tf.cast(block.num_output_samples / block.num_samples, tf.float32)
    spectrum *= tf.cast(response * scale, tf.complex64)
    spectrum = tf.pad(spectrum, [[0, num_output_bins - num_shared_bins]])
    return tf.signal.irfft(spectrum, [tf.cast(block.num_output_samples, tf.int32)])


def _ceil_div(dividend: tf.Tensor | int, divisor: tf.Tensor) -> tf.Tensor:
    return -(-dividend // divisor)


def _smooth_numbers(longest: int) -> np.ndarray:
    """The numbers up to `longest` without a prime factor above 5, ascending: int64."""
    powers = [np.array([base**n for n in range(64) if base**n <= longest], object) for base in (2, 3, 5)]
    products = np.multiply.outer(np.multiply.outer(powers[0], powers[1]), powers[2]).ravel()
    return np.array(sorted(product for product in products if product <= longest), np.int64)
