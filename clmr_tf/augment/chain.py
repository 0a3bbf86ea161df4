"""The augmentation chain: from clips and seeds to views, in the training graph."""

import tensorflow as tf

from clmr_tf.augment.augmentation import (
    Augmentation,
    Parameters,
    ViewRandomness,
    as_audio,
    as_augmented,
    as_seeds,
    check_batch,
)
from clmr_tf.augment.delays import Delay
from clmr_tf.augment.filters import Filter
from clmr_tf.augment.gain_polarity import Gain, Polarity
from clmr_tf.augment.noise import Noise
from clmr_tf.augment.pitch import Pitch
from clmr_tf.augment.reverberation import Reverb
from clmr_tf.config.augmentation import AugmentationConfig
from clmr_tf.errors import UsageError

AUGMENTATIONS: dict[str, type[Augmentation]] = {
    augmentation.name: augmentation for augmentation in (Polarity, Noise, Gain, Filter, Delay, Pitch, Reverb)
}


class AugmentationChain:
    """Draws and applies the augmentations of a configuration, each example for itself.

    Works eagerly, inside `tf.function` (also with `jit_compile=True`), inside `Dataset.map`, under any Keras
    dtype policy: everything is float32. An augmentation of probability 0 costs nothing, and one that is expensive
    is computed for the examples that get it.

    Attributes:
        config: The configuration.
        augmentations: Those that are in use, in the order in which they are applied.

    Args:
        config: Probabilities, ranges and order.
        sample_rate_hz: Of the audio.
    """

    def __init__(self, config: AugmentationConfig, sample_rate_hz: int = 22_050) -> None:
        self.config = config
        self.augmentations = tuple(
            AUGMENTATIONS[name](getattr(config, name), sample_rate_hz)
            for name in config.order
            if getattr(config, name).probability > 0
        )

    def __call__(self, audio: tf.Tensor, seeds: tf.Tensor, augmented: tf.Tensor | None = None) -> tf.Tensor:
        """Makes a view of every clip.

        Args:
            audio: float32 [batch, samples].
            seeds: int32 [batch, 2]; a view depends on its clip and its pair only.
            augmented: bool [batch], False for views that are the crop alone; all are augmented if None. A
                configuration with `asymmetric` needs it, as only the caller knows which rows are second
                views.

        Returns:
            float32 [batch, samples], of the same static shape.

        Raises:
            UsageError: If an argument is of another type or shape, or `augmented` is needed and absent.
        """
        return self.apply(audio, self.draw(seeds, augmented))

    def draw(self, seeds: tf.Tensor, augmented: tf.Tensor | None = None) -> dict[str, Parameters]:
        """Draws all parameters of a batch of views; the arguments are those of a call.

        Returns:
            For each augmentation in use, by name, its parameters: `applied`, bool [batch], and others with
            one row per view.

        Raises:
            UsageError: As for a call.
        """
        if augmented is None and self.config.asymmetric:
            raise UsageError("An asymmetric chain needs `augmented`: True for the rows that are first views.")
        seeds = as_seeds(seeds)
        randomness = ViewRandomness(seeds)
        draws = {augmentation.name: augmentation.draw(randomness) for augmentation in self.augmentations}
        if augmented is not None:
            augmented = as_augmented(augmented, seeds)
            for parameters in draws.values():
                parameters["applied"] &= augmented
        return draws

    def apply(self, audio: tf.Tensor, draws: dict[str, Parameters]) -> tf.Tensor:
        """Applies drawn parameters to audio [batch, samples], in the order of the configuration.

        Raises:
            UsageError: If the audio is of another type or shape, known to hold nothing, or of another batch.
            tf.errors.InvalidArgumentError: If a clip holds NaN or infinity, which a filter would spread over all of
                it; with `jit_compile=True` nothing is raised, and the other clips are as they should be.
        """
        audio = as_audio(audio)
        if self.augmentations:
            audio = tf.debugging.check_numerics(audio, "A clip to be augmented holds NaN or infinity")
        for augmentation in self.augmentations:
            parameters = draws[augmentation.name]
            check_batch(parameters["applied"], "seeds", audio)
            audio = augmentation.apply(audio, parameters)
        return audio
