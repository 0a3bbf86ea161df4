"""Polarity inversion."""

import tensorflow as tf

from clmr_tf.augment.effect import Augmentation, Parameters, as_audio
from clmr_tf.config.augmentation import PolarityConfig


def polarity(audio: tf.Tensor) -> tf.Tensor:
    """Inverts the sign of every sample. On its own this is inaudible.

    Args:
        audio: float32 [batch, samples].

    Returns:
        float32 [batch, samples].

    Raises:
        UsageError: If the audio has another dtype or rank.
    """
    return -as_audio(audio)


class Polarity(Augmentation):
    """Inverted polarity."""

    name = "polarity"

    def __init__(self, settings: PolarityConfig, sample_rate_hz: int) -> None:
        super().__init__(settings.probability)

    def draw_parameters(self, uniforms: tf.Tensor, seeds: tf.Tensor) -> Parameters:
        """Polarity has no parameters."""
        return {}

    def transform(self, audio: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        """See `polarity`."""
        return polarity(audio)
