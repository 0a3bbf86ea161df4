"""Polarity and gain: every sample of a clip times one number."""

import tensorflow as tf

from clmr_tf.augment.augmentation import Augmentation, Parameters, as_audio, as_parameter, choose
from clmr_tf.config.augmentation import GainConfig, PolarityConfig


def polarity(audio: tf.Tensor) -> tf.Tensor:
    """Changes the sign of every sample. Alone it cannot be heard.

    Args:
        audio: float32 [batch, samples].

    Returns:
        float32 [batch, samples].

    Raises:
        UsageError: If the audio is of another type or rank.
    """
    return -as_audio(audio)


def gain(audio: tf.Tensor, gain_db: tf.Tensor) -> tf.Tensor:
    """Changes the level: audio * 10^(gain_db / 20).

    Nothing is clipped. (The released code clips at full scale; at its -20 to -1 dB that never happens to
    audio in [-1, 1].)

    Args:
        audio: float32 [batch, samples].
        gain_db: float32 [batch], positive is louder.

    Returns:
        float32 [batch, samples].

    Raises:
        UsageError: If an argument is of another type or shape.
    """
    audio = as_audio(audio)
    # Vectorised float32 powers differ in the last bit with the place in the batch; rounding float64 hides it.
    decibels = tf.cast(as_parameter(gain_db, "gain_db", audio), tf.float64)
    factor = tf.pow(tf.constant(10.0, tf.float64), decibels / 20.0)
    return audio * tf.cast(factor, tf.float32)[:, tf.newaxis]


class Polarity(Augmentation):
    """Inverted polarity, drawn per example."""

    name = "polarity"

    def __init__(self, settings: PolarityConfig, sample_rate_hz: int) -> None:
        super().__init__(settings.probability)

    def draw_parameters(self, uniforms: tf.Tensor, seeds: tf.Tensor) -> Parameters:
        """There are none."""
        return {}

    def transform(self, audio: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        """See `polarity`."""
        return polarity(audio)


class Gain(Augmentation):
    """A gain in dB, drawn per example."""

    name = "gain"

    def __init__(self, settings: GainConfig, sample_rate_hz: int) -> None:
        super().__init__(settings.probability)
        self.gain_db = settings.gain_db

    def draw_parameters(self, uniforms: tf.Tensor, seeds: tf.Tensor) -> Parameters:
        """Draws `gain_db`."""
        return {"gain_db": choose(self.gain_db, uniforms[:, 0])}

    def transform(self, audio: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        """See `gain`."""
        return gain(audio, parameters["gain_db"])
