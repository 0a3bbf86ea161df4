"""What all objectives share: an encoder, views made inside the step, micro-batches, one step of the optimizer."""

import abc
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from clmr_tf.augment import AugmentationChain
from clmr_tf.weight_update import WeightUpdate


class TrainedModel(keras.Model, abc.ABC):
    """An encoder and what an objective puts on it.

    A batch is `{"clips": float32 [batch, crops, samples], "seeds": int32 [batch, crops, 2], ...}`. The views are made
    inside the step, on the device that trains. On several replicas each has its share of the batch.

    An objective says what it makes of a batch (`prepare`), and what that costs (`score`).

    Args:
        encoder: [batch, samples] -> [batch, embedding].
        augmentation: Makes a view of a clip and its seed.
        jit_views: Compile the augmentation with XLA.
        num_micro_batches: Parts of a batch that are encoded and scored one after the other, each by itself; their
            gradients are averaged.
    """

    def __init__(
        self,
        encoder: keras.Model,
        augmentation: AugmentationChain,
        *,
        jit_views: bool = False,
        num_micro_batches: int = 1,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.encoder = encoder
        self.augmentation = augmentation
        self.num_micro_batches = num_micro_batches
        self.weight_update: WeightUpdate | None = None
        self._augment = tf.function(augmentation, jit_compile=True, autograph=False) if jit_views else augmentation

    @property
    @abc.abstractmethod
    def parts(self) -> dict[str, keras.Model]:
        """What has weights, by the names that checkpoints use."""

    @property
    @abc.abstractmethod
    def watched_of_score(self) -> tuple[str, ...]:
        """The names of what `score` gives beside the loss, in their order."""

    @abc.abstractmethod
    def prepare(self, batch: Mapping[str, tf.Tensor]) -> Any:
        """What is made of a batch before any weight has a part in it."""

    @abc.abstractmethod
    def score(self, prepared: Any, training: bool) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The loss, a scalar, and what `watched_of_score` names, of this replica.

        Scalars, but of what is called ..._spread the moments that `moments_of_directions` gives: their means over
        replicas and micro-batches are taken with those of the gradients, and `spread` is made of them afterwards.
        """

    @property
    def watched(self) -> tuple[str, ...]:
        """The names of what a training step returns; to be asked once it is compiled."""
        return (*self.watched_of_score, *self.weight_update.watched)

    def build(self, input_shape: tuple[int | None, ...] | None = None) -> None:
        """Makes all weights, so that a checkpoint can be restored before the first step."""
        self.encoder.build()
        self.built = True

    def compile(self, weight_update: WeightUpdate) -> None:
        """Says how the weights are changed; the order of its weights is that of `trainable_variables`."""
        # Without Keras' own loss scale, which fails on several replicas.
        super().compile(optimizer=weight_update.optimizer, jit_compile=False, auto_scale_loss=False)
        self.weight_update = weight_update

    def make_views(self, clips: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        """Augments every clip: [batch, crops, samples] and seeds [batch, crops, 2] -> [crops * batch, samples].

        The views of a pair follow each other: rows 2k and 2k + 1 are the two views of pair k.
        """
        # Here, because a compiled chain cannot report anything.
        clips = tf.debugging.check_numerics(clips, "A clip to be augmented holds NaN or infinity")
        augmented, num_crops = None, clips.shape[1]
        if self.augmentation.config.asymmetric:
            # The ablation of the paper: the second view of every pair is the crop alone.
            augmented = tf.equal(tf.range(num_crops * tf.shape(clips)[0]) % num_crops, 0)
        return self._augment(tf.reshape(clips, [-1, clips.shape[-1]]), tf.reshape(seeds, [-1, 2]), augmented)

    def train_step(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step of the optimizer on this replica's share of a batch.

        Returns:
            The float32 scalars that `watched` names, of the whole batch.
        """
        parts = [self._gradients(batch)] if self.num_micro_batches == 1 else self._gradients_of_parts(batch)
        gradients, watched = tf.nest.map_structure(lambda *values: tf.add_n(values) / len(parts), *parts)
        watched = self.weight_update(gradients, watched)
        return {name: spread(value) if name.endswith("_spread") else value for name, value in watched.items()}

    def _gradients(self, batch: Mapping[str, tf.Tensor]) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        prepared = self.prepare(batch)
        with tf.GradientTape() as tape:
            loss, watched = self.score(prepared, training=True)
            loss = self.weight_update.scaled(loss)
        return tape.gradient(loss, self.trainable_variables), watched

    def _gradients_of_parts(self, batch: Mapping[str, tf.Tensor]) -> list[tuple[list[tf.Tensor], dict[str, tf.Tensor]]]:
        parts = {name: tf.split(tensor, self.num_micro_batches) for name, tensor in batch.items()}
        results = []
        for number in range(self.num_micro_batches):
            # Each waits for the one before, or all would be in memory at once.
            with tf.control_dependencies(tf.nest.flatten(results[-1:])):
                part = {name: tf.identity(tensors[number]) for name, tensors in parts.items()}
            results.append(self._gradients(part))
        return results


def moments_of_directions(vectors: tf.Tensor) -> tf.Tensor:
    """What `spread` is made of, such that the mean over equal parts of a batch is that of the batch.

    An exchange between replicas costs most by being one, so these wait for that of the gradients.

    Args:
        vectors: [batch, dimensions] of this replica, any float type.

    Returns:
        float32 [3, dimensions], without a gradient: of each coordinate of the normalised vectors the mean, the
        variance, and the square of the mean.
    """
    directions = tf.math.l2_normalize(tf.cast(tf.stop_gradient(vectors), tf.float32), axis=-1)
    mean, variance = tf.nn.moments(directions, [0])
    return tf.stack([mean, variance, tf.square(mean)])


def spread(moments: tf.Tensor) -> tf.Tensor:
    """How far the directions of vectors are apart: 1 as for random directions, 0 when all are the same.

    The standard deviation over the batch of each coordinate of the normalised vectors, averaged and times the
    root of their number (Chen and He 2021, SimSiam, figure 2). A collapse of the representation shows here.

    Args:
        moments: As `moments_of_directions` gives them, or their mean over parts of a batch; float [3, dimensions].

    Returns:
        float32 scalar.
    """
    mean, variance, squared_mean = tf.unstack(tf.cast(moments, tf.float32))
    # That of the means of the parts; of one part it is zero to the bit, and rounding may take it below.
    between = tf.maximum(squared_mean - tf.square(mean), 0.0)
    return tf.reduce_mean(tf.sqrt(variance + between)) * tf.sqrt(float(moments.shape[-1]))
