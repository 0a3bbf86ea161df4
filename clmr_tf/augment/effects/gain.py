"""Gain in decibels."""

import tensorflow as tf

from clmr_tf.augment.effect import Augmentation, Parameters, as_audio, as_parameter
from clmr_tf.augment.randomness import sample_range
from clmr_tf.config.augmentation import GainConfig


def gain(audio: tf.Tensor, gain_db: tf.Tensor) -> tf.Tensor:
    """Changes the level: audio * 10^(gain_db / 20).

    Nothing is clipped. (The released code clips at full scale; with its gains of -20 to -1 dB that never happens to
    audio in [-1, 1].)

    Args:
        audio: float32 [batch, samples].
        gain_db: float32 [batch], positive is louder.

    Returns:
        float32 [batch, samples].

    Raises:
        UsageError: If an argument has another dtype or shape.
    """
    audio = as_audio(audio)
    # Vectorised float32 powers differ in the last bit with the place in the batch; rounding a float64 power hides that.
    gain_db = tf.cast(as_parameter(gain_db, "gain_db", audio), tf.float64)
    factor = tf.pow(tf.constant(10.0, tf.float64), gain_db / 20.0)
    return audio * tf.cast(factor, tf.float32)[:, tf.newaxis]


class Gain(Augmentation):
    """Random gain."""

    name = "gain"

    def __init__(self, settings: GainConfig, sample_rate_hz: int) -> None:
        super().__init__(settings.probability)
        self.gain_db = settings.gain_db

    def draw_parameters(self, uniforms: tf.Tensor, seeds: tf.Tensor) -> Parameters:
        """Draws `gain_db`."""
        return {"gain_db": sample_range(self.gain_db, uniforms[:, 0])}

    def transform(self, audio: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        """See `gain`."""
        return gain(audio, parameters["gain_db"])
