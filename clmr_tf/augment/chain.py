"""The augmentation chain, which turns clips and seeds into views in the training graph."""

import tensorflow as tf

from clmr_tf.augment.effect import Augmentation, Parameters, as_audio, as_seeds, check_batch
from clmr_tf.augment.effects.delay import Delay
from clmr_tf.augment.effects.filter import Filter
from clmr_tf.augment.effects.gain import Gain
from clmr_tf.augment.effects.noise import Noise
from clmr_tf.augment.effects.pitch import Pitch
from clmr_tf.augment.effects.polarity import Polarity
from clmr_tf.augment.effects.reverb import Reverb
from clmr_tf.augment.randomness import ViewRandomness
from clmr_tf.config.augmentation import AugmentationConfig
from clmr_tf.errors import UsageError

AUGMENTATIONS: dict[str, type[Augmentation]] = {
    augmentation.name: augmentation for augmentation in (Polarity, Noise, Gain, Filter, Delay, Pitch, Reverb)
}


class AugmentationChain:
    """Draws and applies the augmentations of a configuration, independently for each example.

    Works eagerly, inside `tf.function` (also with `jit_compile=True`), inside `Dataset.map`, and under any Keras
    dtype policy: everything is float32. An augmentation of probability 0 is left out of the graph.

    Attributes:
        config: The configuration.
        augmentations: Those of nonzero probability, in the order in which they are applied.

    Args:
        config: Probabilities, ranges and order.
        sample_rate_hz: Sample rate of the audio.
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
            seeds: int32 [batch, 2]; a view depends on its clip and its seed pair only.
            augmented: bool [batch], False for views that are the crop itself; None augments all. Required with an
                `asymmetric` configuration, since only the caller knows which rows are second views.

        Returns:
            float32 [batch, samples], of the same static shape.

        Raises:
            UsageError: If an argument has another dtype or shape, or `augmented` is missing.
            tf.errors.InvalidArgumentError: See `apply`.
        """
        return self.apply(audio, self.draw(seeds, augmented))

    def draw(self, seeds: tf.Tensor, augmented: tf.Tensor | None = None) -> dict[str, Parameters]:
        """Draws the parameters of a batch of views; arguments and errors as for a call.

        Returns:
            The parameters of each augmentation, by name, with one row per view: `applied`, bool [batch], and its other
            parameters, which are drawn even for rows where it is not applied.
        """
        if augmented is None and self.config.asymmetric:
            raise UsageError("An asymmetric chain needs `augmented`: True for the rows that are first views.")
        seeds = as_seeds(seeds)
        if augmented is not None:
            augmented = _as_mask(augmented, seeds)
        randomness = ViewRandomness(seeds)
        draws = {}
        for augmentation in self.augmentations:
            uniforms = randomness.uniforms(augmentation.name)
            applied = uniforms[:, 0] < augmentation.probability
            if augmented is not None:
                applied &= augmented
            parameters = augmentation.draw_parameters(uniforms[:, 1:], randomness.seeds(augmentation.name))
            draws[augmentation.name] = {"applied": applied, **parameters}
        return draws

    def apply(self, audio: tf.Tensor, draws: dict[str, Parameters]) -> tf.Tensor:
        """Applies drawn parameters to audio [batch, samples], in the order of the configuration.

        Raises:
            UsageError: If the audio has another dtype, shape or batch size, or is known to be empty.
            tf.errors.InvalidArgumentError: If a clip contains NaN or infinity, which a filter would spread over the
                whole clip. With `jit_compile=True`, nothing is raised, and the other clips are not affected.
        """
        audio = as_audio(audio)
        if self.augmentations:
            audio = tf.debugging.check_numerics(audio, "A clip to be augmented contains NaN or infinity")
        for augmentation in self.augmentations:
            parameters = draws[augmentation.name]
            check_batch(parameters["applied"], "seeds", audio)
            audio = augmentation.apply(audio, parameters)
        return audio


def _as_mask(augmented: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
    """Returns `augmented` as a bool tensor [batch], one for each pair of `seeds`; UsageError if it is anything else."""
    augmented = tf.convert_to_tensor(augmented)
    if augmented.dtype != tf.bool or not augmented.shape.is_compatible_with([None]):
        raise UsageError(
            "augmented must be bool [batch], False for each view that is the crop itself; "
            f"received {augmented.dtype.name} {augmented.shape}."
        )
    check_batch(augmented, "augmented", seeds)
    return augmented
