"""The shared form of the augmentations: parameters are drawn first, then applied by a pure function."""

import abc
from typing import ClassVar

import tensorflow as tf

from clmr_tf.augment.chosen import is_cpu_alone, transform_chosen
from clmr_tf.augment.randomness import ViewRandomness

Parameters = dict[str, tf.Tensor]


class Augmentation(abc.ABC):
    """One augmentation with its settings.

    A subclass names itself, draws its parameters and transforms audio with them. Whether an example is
    augmented at all is a parameter too, `applied`, and belongs to the draw.

    Args:
        probability: Of each view to be augmented.
    """

    name: ClassVar[str]
    """One of AUGMENTATION_NAMES."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def draw(self, randomness: ViewRandomness) -> Parameters:
        """Draws the parameters of a batch of views, a pure function of each view's seeds.

        Returns:
            `applied`, bool [batch], and the parameters of this augmentation, one row per view. They are
            drawn where it is not applied as well.
        """
        uniforms = randomness.uniforms(self.name)
        applied = uniforms[:, 0] < self.probability
        return {"applied": applied, **self.draw_parameters(uniforms[:, 1:], randomness.seeds(self.name))}

    def apply(self, audio: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        """Augments the examples that were chosen; the others come back bit for bit.

        Args:
            audio: float32 [batch, samples].
            parameters: What `draw` returned, or the same by hand.

        Returns:
            float32 [batch, samples].
        """
        return tf.where(parameters["applied"][:, tf.newaxis], self.transform(audio, parameters), audio)

    @abc.abstractmethod
    def draw_parameters(self, uniforms: tf.Tensor, seeds: tf.Tensor) -> Parameters:
        """Makes parameters out of random numbers.

        Args:
            uniforms: float32 [batch, NUM_UNIFORMS - 1] in [0, 1).
            seeds: int32 [batch, 2], this augmentation's own.
        """

    @abc.abstractmethod
    def transform(self, audio: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        """Augments every example, [batch, samples] -> [batch, samples], without randomness of its own."""


class ChosenRowsAugmentation(Augmentation):
    """An augmentation that costs too much to be computed for examples that do not get it."""

    def apply(self, audio: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        """As in the base, on a CPU at a cost in proportion to the number of examples that were chosen."""
        if not is_cpu_alone():
            return super().apply(audio, parameters)
        others = {name: values for name, values in parameters.items() if name != "applied"}
        return transform_chosen(self.transform, audio, others, parameters["applied"])
