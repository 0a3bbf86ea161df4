"""FFT lengths, and exact time shifts of a spectrum as phase ramps."""

import math

import numpy as np
import tensorflow as tf


def fast_fft_length(least: int) -> int:
    """The smallest even number >= `least` whose prime factors are 2, 3 and 5."""
    powers_of_3_and_5 = [3**a * 5**b for a in range(40) for b in range(28) if 3**a * 5**b <= least]
    candidates = [odd * 2 ** max(1, math.ceil(math.log2(least / odd))) for odd in powers_of_3_and_5 or [1]]
    return min(candidate for candidate in candidates if candidate >= least)


def grid_of_bins(num_bins: int) -> tuple[int, int]:
    """Rows and columns of the smallest nearly square grid that holds that many bins, row after row."""
    num_columns = math.isqrt(num_bins - 1) + 1
    return -(-num_bins // num_columns), num_columns


def phase_ramp_factors(
    advance_samples: tf.Tensor, fft_length: int, num_bins: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Matrices whose products are the real and imaginary parts of a phase ramp, laid out on a grid of bins.

    The phase of bin row * num_columns + column is the sum of a phase of its row and one of its column. So only few
    values are computed in float64, and all are exact to float32 however large the bin and the advance are.

    Args:
        advance_samples: float64 [...].
        fft_length: Length of the transform.
        num_bins: Number of its bins, from bin 0 on.

    Returns:
        float32 [..., rows, 2], and [..., 2, columns] for the real and for the imaginary part.
    """
    num_rows, num_columns = grid_of_bins(num_bins)
    cycles_per_bin = advance_samples / fft_length
    rows, columns = (
        tf.cast(_powers(_unit_phasor(step * cycles_per_bin), count), tf.complex64)
        for step, count in ((num_columns, num_rows), (1, num_columns))
    )
    row_cos, row_sin, column_cos, column_sin = (
        part(factor) for factor in (rows, columns) for part in (tf.math.real, tf.math.imag)
    )
    return (
        tf.stack([row_cos, row_sin], axis=-1),
        tf.stack([column_cos, -column_sin], axis=-2),
        tf.stack([column_sin, column_cos], axis=-2),
    )


def phase_ramp(rows: tf.Tensor, columns_real: tf.Tensor, columns_imaginary: tf.Tensor, num_bins: int) -> tf.Tensor:
    """The spectrum of a time advance, exp(2 pi i k advance / fft_length) for bin k: complex64 [..., num_bins].

    The first three arguments are those that `phase_ramp_factors` returns.
    """
    ramp = tf.complex(_products(rows, columns_real), _products(rows, columns_imaginary))
    flat_shape = tf.concat([tf.shape(ramp)[:-2], [ramp.shape[-2] * ramp.shape[-1]]], axis=0)
    return tf.reshape(ramp, flat_shape)[..., :num_bins]


def _products(rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """[..., rows, 2] @ [..., 2, columns]; tf.matmul would round by the batch size on some processors."""
    return rows[..., :1] * columns[..., :1, :] + rows[..., 1:] * columns[..., 1:, :]


def _unit_phasor(cycles: tf.Tensor) -> tf.Tensor:
    """exp(2 pi i cycles), float64 -> complex128."""
    angle = 2 * np.pi * (cycles - tf.floor(cycles))
    return tf.complex(tf.cos(angle), tf.sin(angle))


def _powers(base: tf.Tensor, count: int) -> tf.Tensor:
    """Powers 0 to count - 1 by doubling, which needs no more sines: complex128 [...] -> [..., count]."""
    powers = tf.ones_like(base)[..., tf.newaxis]
    base = base[..., tf.newaxis]
    while powers.shape[-1] < count:
        powers = tf.concat([powers, powers * (powers[..., -1:] * base)], axis=-1)
    return powers[..., :count]
