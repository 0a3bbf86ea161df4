"""Reverb equal to sox's `reverb` on mono (Freeverb), in closed form in the frequency domain."""

import math

import numpy as np
import tensorflow as tf

from clmr_tf.augment.effect import Augmentation, Parameters, as_audio, as_parameter, static_num_samples
from clmr_tf.augment.effects.fourier import fast_fft_length, grid_of_bins, phase_ramp_factors
from clmr_tf.augment.randomness import sample_range
from clmr_tf.config.augmentation import ReverbConfig

# Freeverb's delay lines, in samples at 44,100 Hz; in the second channel they are longer and shorter in turn.
_COMB_LENGTHS = np.array([1116, 1188, 1277, 1356, 1422, 1491, 1557, 1617])
_ALL_PASS_LENGTHS = np.array([225, 341, 441, 556])
_CHANNEL_OFFSET = 12
_NUM_CHANNELS = 2
_WET_GAIN = 0.015
# Damping of the tail that wraps around, as a power of e. More would amplify the rounding errors of float32; with 8,
# both errors stay below 4e-4 of the clip.
_WRAP_DAMPING = 8.0


def reverb(
    audio: tf.Tensor, reverberance: tf.Tensor, damping: tf.Tensor, room_scale: tf.Tensor, sample_rate: int
) -> tf.Tensor:
    """Adds reverberation: sox 14.4.2's `reverb REVERBERANCE DAMPING ROOM_SCALE`, averaged over its two channels.

    The dry clip at full level, plus two channels of eight parallel comb filters with a one-pole low-pass in their
    feedback loops and four all-passes in series. This is linear and time-invariant, so it is one multiplication of the
    spectrum by the closed form of the frequency response. The clip is multiplied by r^-n before the transform and by
    r^n after it, which evaluates the response on a circle of radius r > 1 and damps the infinite tail that would wrap
    around.

    Args:
        audio: float32 [batch, samples].
        reverberance: float32 [batch], 0 to 100: length of the tail.
        damping: float32 [batch], 0 to 100: how much faster high frequencies decay.
        room_scale: float32 [batch], 0 to 100: distance between the echoes.
        sample_rate: Sample rate in Hz.

    Returns:
        float32 [batch, samples]; the tail is cut off at the end of the clip.

    Raises:
        UsageError: If an argument has another dtype or shape.
    """
    audio = as_audio(audio)
    fractions = [
        tf.cast(as_parameter(values, name, audio), tf.float64) / 100
        for values, name in ((reverberance, "reverberance"), (damping, "damping"), (room_scale, "room_scale"))
    ]
    num_samples = static_num_samples(audio)
    # At least the longest comb, or its power of r would overflow float32.
    longest_comb = math.ceil((_COMB_LENGTHS.max() + _CHANNEL_OFFSET) * sample_rate / 44100)
    fft_length = fast_fft_length(max(num_samples, longest_comb))
    log_radius = _WRAP_DAMPING / fft_length
    decay = np.exp(-log_radius * np.arange(num_samples))
    spectrum = tf.signal.rfft(audio * decay.astype(np.float32), [fft_length])
    response = _wet_response(*fractions, sample_rate, fft_length, log_radius)
    wet = tf.signal.irfft(spectrum * response, [fft_length])[:, :num_samples]
    return audio + wet * (1 / decay).astype(np.float32)


def _wet_response(
    reverberance: tf.Tensor,
    damping: tf.Tensor,
    room_scale: tf.Tensor,
    sample_rate: int,
    fft_length: int,
    log_radius: float,
) -> tf.Tensor:
    """The response of the wet signal on the circle, complex64 [batch, bins]; the parameters are float64 in [0, 1]."""
    num_bins = fft_length // 2 + 1
    num_rows, num_columns = grid_of_bins(num_bins)

    def log_z(bins: np.ndarray) -> np.ndarray:
        return log_radius + 2j * np.pi * bins / fft_length

    # The feedback of every comb without its delay, feedback * (1 - loss) / (1 - loss / z), is so smooth that within a
    # row of the grid a parabola through three of its values is exact to float32.
    nodes, parabolas = _interpolation(num_columns)
    feedback, loss = (values[:, tf.newaxis, tf.newaxis] for values in (_feedback(reverberance), 0.3 * damping + 0.2))
    loop = tf.cast(feedback * (1 - loss), tf.complex128) / (
        1 - tf.cast(loss, tf.complex128) * np.exp(-log_z(num_columns * np.arange(num_rows)[:, np.newaxis] + nodes))
    )
    loop_real, loop_imaginary = (tf.cast(part(loop), tf.float32) for part in (tf.math.real, tf.math.imag))
    stretch = (0.9 * room_scale + 0.1)[:, tf.newaxis] * (sample_rate / 44100)
    channels = []
    for channel in range(_NUM_CHANNELS):
        delays_samples = tf.floor(stretch * _lengths(_COMB_LENGTHS, channel) + 0.5)
        rows, columns, _ = phase_ramp_factors(delays_samples, fft_length, num_bins)
        rows *= tf.cast(tf.exp(log_radius * delays_samples), tf.float32)[..., tf.newaxis, tf.newaxis]
        all_passes = _all_passes(channel, sample_rate, log_z(np.arange(num_rows * num_columns)))
        channels.append((rows, columns, np.reshape(all_passes, [num_rows, num_columns])))
    return _sum_of_channels(channels, loop_real, loop_imaginary, parabolas)[:, :num_bins]


# Compiled, which is twice as fast on a CPU.
@tf.function(jit_compile=True, autograph=False)
def _sum_of_channels(
    channels: list[tuple[tf.Tensor, tf.Tensor, tf.Tensor]],
    loop_real: tf.Tensor,
    loop_imaginary: tf.Tensor,
    parabolas: tf.Tensor,
) -> tf.Tensor:
    """The responses of both channels on a grid of bins.

    Args:
        channels: For each channel the factors of z^delay (cosine and sine of a row's phases times its radius, float32
            [batch, combs, rows, 2]; cosine and minus sine of a column's, [batch, combs, 2, columns]) and the response
            of its all-passes, complex64 [rows, columns].
        loop_real: Real part of the feedback of all combs at three nodes of each row, float32 [batch, rows, 3].
        loop_imaginary: Its imaginary part.
        parabolas: Interpolate between the nodes, float32 [3, columns].

    Returns:
        complex64 [batch, rows * columns].
    """
    # tf.matmul would round by the place in the batch on some processors.
    real, imaginary = (
        values[..., :1] * parabolas[0] + values[..., 1:2] * parabolas[1] + values[..., 2:] * parabolas[2]
        for values in (loop_real, loop_imaginary)
    )
    response = tf.add_n([_combs(*factors, real, imaginary) * passes for *factors, passes in channels])
    return tf.reshape(response, [-1, response.shape[1] * response.shape[2]])


def _combs(rows: tf.Tensor, columns: tf.Tensor, loop_real: tf.Tensor, loop_imaginary: tf.Tensor) -> tf.Tensor:
    """The sum of parallel combs, z^-delay / (1 - loop z^-delay) = 1 / (z^delay - loop)."""
    row_cos, row_sin = rows[..., :1], rows[..., 1:]
    column_cos, column_sin = columns[..., :1, :], -columns[..., 1:, :]
    real = row_cos * column_cos - row_sin * column_sin - loop_real[:, tf.newaxis]
    imaginary = row_cos * column_sin + row_sin * column_cos - loop_imaginary[:, tf.newaxis]
    inverse_energy = 1 / (tf.square(real) + tf.square(imaginary))
    return tf.complex(tf.reduce_sum(real * inverse_energy, axis=1), -tf.reduce_sum(imaginary * inverse_energy, axis=1))


def _interpolation(num_columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Chebyshev's three nodes in a row of that many columns, and the parabolas through them.

    Returns:
        float64 [3] in columns, and float32 [3, columns]: 1 at their own node, 0 at the other two.
    """
    nodes = (num_columns - 1) / 2 * (1 + np.sqrt(0.75) * np.array([-1.0, 0.0, 1.0]))
    columns = np.arange(num_columns)
    parabolas = [
        np.prod([(columns - other) / (node - other) for other in nodes if other != node], axis=0) for node in nodes
    ]
    return nodes, np.stack(parabolas).astype(np.float32)


def _all_passes(channel: int, sample_rate: int, log_z: np.ndarray) -> np.ndarray:
    """The all-passes of a channel, which depend on no parameter, times its gain in the average of both channels."""
    response = np.full(len(log_z), _WET_GAIN / _NUM_CHANNELS, np.complex128)
    for length in _lengths(_ALL_PASS_LENGTHS, channel):
        delayed = np.exp(-math.floor(length * sample_rate / 44100 + 0.5) * log_z)
        response *= delayed / (1 - 0.5 * delayed) - 1
    return response.astype(np.complex64)


def _lengths(lengths: np.ndarray, channel: int) -> np.ndarray:
    return lengths + channel * _CHANNEL_OFFSET * (-1.0) ** np.arange(len(lengths))


def _feedback(reverberance: tf.Tensor) -> tf.Tensor:
    """sox's curve from 0.3 at 0 to 0.98 at 1."""
    slope = -1 / math.log(1 - 0.3)
    end = 100 / (slope * math.log(1 - 0.98) + 1)
    return 1 - tf.exp((100 * reverberance - end) / (slope * end))


class Reverb(Augmentation):
    """Reverb with three random parameters."""

    name = "reverb"
    is_expensive = True

    def __init__(self, settings: ReverbConfig, sample_rate_hz: int) -> None:
        super().__init__(settings.probability)
        self.settings = settings
        self.sample_rate_hz = sample_rate_hz

    def draw_parameters(self, uniforms: tf.Tensor, seeds: tf.Tensor) -> Parameters:
        """Draws `reverberance`, `damping` and `room_scale`."""
        return {
            name: sample_range(getattr(self.settings, name), uniforms[:, column])
            for column, name in enumerate(("reverberance", "damping", "room_scale"))
        }

    def transform(self, audio: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        """See `reverb`."""
        percents = (parameters[name] for name in ("reverberance", "damping", "room_scale"))
        return reverb(audio, *percents, self.sample_rate_hz)
