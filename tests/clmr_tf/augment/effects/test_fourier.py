"""FFT lengths and phase ramps."""

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.augment.effects.fourier import fast_fft_length, grid_of_bins, phase_ramp, phase_ramp_factors


def is_fast(number):
    for prime in (2, 3, 5):
        while number % prime == 0:
            number //= prime
    return number == 1


@pytest.mark.parametrize("least", [1, 2, 3, 7, 511, 1000, 20_736, 43_471, 59_049, 59_931, 65_537, 131_073])
def test_the_next_even_length_without_large_prime_factors(least):
    expected = next(number for number in range(max(2, least + least % 2), 4 * least + 4, 2) if is_fast(number))
    assert fast_fft_length(least) == expected


@pytest.mark.parametrize("fft_length", [2, 96, 2048, 60_000])
def test_a_phase_ramp_delays_a_spectrum_exactly(fft_length):
    num_bins = fft_length // 2 + 1
    rows, columns = grid_of_bins(num_bins)
    assert rows * columns >= num_bins > (rows - 1) * columns
    advances = tf.constant([[0.0, 1.0, -1.0], [808.0, -0.37, 59_049.25]], tf.float64)
    ramp = phase_ramp(*phase_ramp_factors(advances, fft_length, num_bins), num_bins)
    assert ramp.dtype == tf.complex64 and ramp.shape == [2, 3, num_bins]
    turns = np.arange(num_bins) * advances.numpy()[..., None] / fft_length
    np.testing.assert_allclose(ramp, np.exp(2j * np.pi * turns), atol=4e-7)
