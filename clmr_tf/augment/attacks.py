"""Attacks: where the energy of a clip is gathered, and playing them alone, faster or slower, each at its own time."""

import numpy as np
import tensorflow as tf

from clmr_tf.augment.arguments import static_num_samples
from clmr_tf.augment.varispeed import BLOCK_NUM_SAMPLES, read_blocks

# How far around a moment its attack is looked for. Attacks twice as far from each other, 46 ms, are surely told apart.
_REACH_SECONDS = 512 / 22050
# How far energy spreads around its centre, as a share of the variance of a steady sound: up to the first it is an
# attack, from the second on it is none.
_SPREAD_OF_ATTACK, _SPREAD_OF_STEADY = 0.35, 0.5
_SMALLEST = 1e-30


# Compiled, because on a CPU that is faster than one operation after the other.
@tf.function(jit_compile=True, autograph=False)
def find_attacks(audio: tf.Tensor, sample_rate: int) -> tuple[tf.Tensor, tf.Tensor]:
    """For the beginning of every block of a clip, and for its end: where energy around it is, and whether gathered.

    Args:
        audio: float32 [batch, samples].
        sample_rate: In Hz.

    Returns:
        Two float32 [batch, blocks + 1]: the centre of the energy around it, in samples from there, and the share of
        an attack in the sound, from 0 (steady) to 1 (all energy is near that centre).
    """
    num_samples = static_num_samples(audio)
    num_blocks = -(-num_samples // BLOCK_NUM_SAMPLES)
    reach = round(_REACH_SECONDS * sample_rate / BLOCK_NUM_SAMPLES)
    padded = tf.pad(audio, [[0, 0], [0, num_blocks * BLOCK_NUM_SAMPLES - num_samples]])
    block_energies = tf.square(tf.reshape(padded, [-1, num_blocks, BLOCK_NUM_SAMPLES]))
    energy = tf.reduce_sum(block_energies, axis=-1)
    inside = np.arange(BLOCK_NUM_SAMPLES, dtype=np.float32)
    place = tf.reduce_sum(block_energies * inside, axis=-1) / (energy + _SMALLEST)

    def around(values: tf.Tensor) -> tf.Tensor:
        """Of `reach` blocks on each side, which are silent outside of the clip: [batch, blocks + 1, 2 * reach]."""
        values = tf.pad(values, [[0, 0], [reach, reach]])
        return tf.stack([values[:, first : first + num_blocks + 1] for first in range(2 * reach)], axis=-1)

    block_offsets = np.arange(-reach, reach, dtype=np.float32)
    window = 1 + np.cos(np.pi / reach * (block_offsets + 0.5), dtype=np.float32)
    weights = around(energy) * window
    offsets = around(place) + BLOCK_NUM_SAMPLES * block_offsets
    total = tf.reduce_sum(weights, axis=-1) + _SMALLEST
    centres = tf.reduce_sum(weights * offsets, axis=-1) / total
    variance = tf.reduce_sum(weights * tf.square(offsets), axis=-1) / total - tf.square(centres)
    spread = variance / _variance_of_steady_sound(window, num_samples, num_blocks)
    shares = tf.clip_by_value((_SPREAD_OF_STEADY - spread) / (_SPREAD_OF_STEADY - _SPREAD_OF_ATTACK), 0, 1)
    return centres, shares * shares * (3 - 2 * shares)


def _variance_of_steady_sound(window: np.ndarray, num_samples: int, num_blocks: int) -> np.ndarray:
    """What `find_attacks` finds if every sample has the same energy, near the ends too: float32 [blocks + 1]."""
    reach = len(window) // 2
    first_samples = BLOCK_NUM_SAMPLES * (np.arange(num_blocks + 1)[:, np.newaxis] + np.arange(-reach, reach))
    lengths = np.clip(num_samples - first_samples, 0, BLOCK_NUM_SAMPLES) * (first_samples >= 0)
    weights = lengths * window
    offsets = BLOCK_NUM_SAMPLES * np.arange(-reach, reach) + (lengths - 1) / 2
    total = weights.sum(axis=1)
    centres = (weights * offsets).sum(axis=1) / total
    return ((weights * offsets**2).sum(axis=1) / total - centres**2).astype(np.float32)


def shares_at(shares: tf.Tensor, times: tf.Tensor) -> tf.Tensor:
    """The share of attacks at any times of a clip.

    Args:
        shares: At every 64th sample, float32 [batch, blocks + 1], from `find_attacks`.
        times: In samples, float64 [batch, times].

    Returns:
        float32 [batch, times]; before and after the clip what is at its ends.
    """
    last_block = shares.shape[1] - 1
    positions = tf.clip_by_value(tf.cast(times / BLOCK_NUM_SAMPLES, tf.float32), 0.0, float(last_block))
    blocks = tf.minimum(tf.floor(positions), last_block - 1.0)
    before, after = (tf.gather(shares, tf.cast(blocks, tf.int32) + place, batch_dims=1) for place in (0, 1))
    return before + (after - before) * (positions - blocks)


def play_attacks(
    points: tf.Tensor, speed: tf.Tensor, gain: tf.Tensor, centres: tf.Tensor, shares: tf.Tensor, num_samples: int
) -> tf.Tensor:
    """The attacks of a clip alone, each played at a speed around its centre, which stays where it is.

    Args:
        points: Of the clip, see `spline_points`.
        speed: float64 [batch].
        gain: By which they are multiplied, float32 [batch].
        centres: From `find_attacks`.
        shares: From `find_attacks`.
        num_samples: Length of the clip.

    Returns:
        float32 [batch, num_samples].
    """
    # At a distance from the centre, what is `speed` times as far from it is heard.
    starts = BLOCK_NUM_SAMPLES * np.arange(float(shares.shape[1]))
    times = starts + (1 - speed[:, tf.newaxis]) * tf.cast(centres, tf.float64)
    attacks = read_blocks(points, times, gain[:, tf.newaxis] * shares, num_samples)
    return tf.reshape(attacks, [-1, attacks.shape[1] * BLOCK_NUM_SAMPLES])[:, :num_samples]
