"""The contrastive model: clips in, views, embeddings, projections, NT-Xent, one step of the optimizer."""

import keras
import tensorflow as tf

from clmr_tf.augment import AugmentationChain
from clmr_tf.distribution import moments_over_replicas
from clmr_tf.nt_xent import nt_xent_with_accuracy
from clmr_tf.weight_update import WeightUpdate

# What a training step returns, float32 scalars.
WATCHED = (
    "loss",
    "contrastive_accuracy",
    "embedding_mean",
    "embedding_spread",
    "projection_spread",
    "gradient_norm",
    "learning_rate",
    "num_skipped",
)


class ContrastiveModel(keras.Model):
    """An encoder and a projector, trained to find two views of a recording among those of all others.

    A batch is `{"clips": float32 [batch, 2, samples], "seeds": int32 [batch, 2, 2], ...}` as `clips.py` makes
    it. The views are made inside the step, on the device that trains. Both views of all pairs go through
    the encoder in one pass, so batch normalisation sees the statistics of all 2N views; with `two_passes` it sees
    those of N first and N second views, as in the original. Where both views are made alike, as by all presets but
    the asymmetric ones, the two differ by the noise of an estimate from N views instead of 2N.

    On several replicas each has its share of the batch, and scores its own views against those of all.

    Args:
        encoder: [batch, samples] -> [batch, embedding].
        projector: [batch, embedding] -> [batch, projection], float32.
        augmentation: Makes a view of a clip and its seed.
        temperature: Of NT-Xent.
        jit_views: Compile the augmentation with XLA.
        two_passes: Encode the first and the second views apart.
        num_micro_batches: Parts of a batch that are encoded and scored one after the other, each by itself; their
            gradients are averaged.
    """

    def __init__(
        self,
        encoder: keras.Model,
        projector: keras.Model,
        augmentation: AugmentationChain,
        temperature: float = 0.5,
        jit_views: bool = False,
        two_passes: bool = False,
        num_micro_batches: int = 1,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.encoder = encoder
        self.projector = projector
        self.augmentation = augmentation
        self.temperature = temperature
        self.two_passes = two_passes
        self.num_micro_batches = num_micro_batches
        self.weight_update: WeightUpdate | None = None
        self._augment = tf.function(augmentation, jit_compile=True) if jit_views else augmentation

    def build(self, input_shape: tuple[int | None, ...] | None = None) -> None:
        """Makes all weights, so that a checkpoint can be restored before the first step."""
        self.encoder.build()
        self.built = True

    def compile(self, weight_update: WeightUpdate) -> None:
        """Says how the weights are changed; the order of its weights is that of `trainable_variables`."""
        # Without Keras' own loss scale, which fails on several replicas.
        super().compile(optimizer=weight_update.optimizer, jit_compile=False, auto_scale_loss=False)
        self.weight_update = weight_update

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Projections of views: [batch, samples] -> [batch, projection]."""
        return self.projector(self.encoder(inputs, training=training), training=training)

    def make_views(self, clips: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        """Augments every clip: [batch, 2, samples] and seeds [batch, 2, 2] -> [2 * batch, samples].

        Rows 2k and 2k + 1 are the two views of pair k.
        """
        # Here, because a compiled chain cannot report anything.
        clips = tf.debugging.check_numerics(clips, "A clip to be augmented holds NaN or infinity")
        augmented = None
        if self.augmentation.config.asymmetric:
            # The ablation of the paper: the second view of every pair is the crop alone.
            augmented = tf.equal(tf.range(2 * tf.shape(clips)[0]) % 2, 0)
        return self._augment(tf.reshape(clips, [-1, clips.shape[-1]]), tf.reshape(seeds, [-1, 2]), augmented)

    def contrast(self, views: tf.Tensor, training: bool) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The loss of a batch of views (rows as `make_views` returns them) and what to watch beside it."""
        h = self._encode(views, training)
        z = self.projector(h, training=training)
        loss, accuracy = nt_xent_with_accuracy(z[0::2], z[1::2], self.temperature)
        return loss, {
            "loss": loss,
            "contrastive_accuracy": accuracy,
            "embedding_mean": tf.reduce_mean(tf.cast(h, tf.float32)),
            "embedding_spread": spread(h),
            "projection_spread": spread(z),
        }

    def train_step(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step of the optimizer on this replica's share of a batch.

        Returns:
            The scalars that `WATCHED` names, of the whole batch.
        """
        parts = [self._gradients(batch)] if self.num_micro_batches == 1 else self._gradients_of_parts(batch)
        gradients, watched = tf.nest.map_structure(lambda *values: tf.add_n(values) / len(parts), *parts)
        return self.weight_update(gradients, watched)

    def _encode(self, views: tf.Tensor, training: bool) -> tf.Tensor:
        if not self.two_passes:
            return self.encoder(views, training=training)
        h = [self.encoder(views[number::2], training=training) for number in (0, 1)]
        return tf.reshape(tf.stack(h, axis=1), [-1, h[0].shape[-1]])

    def _gradients(self, batch: dict[str, tf.Tensor]) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        views = self.make_views(batch["clips"], batch["seeds"])
        with tf.GradientTape() as tape:
            loss, watched = self.contrast(views, training=True)
            loss = self.weight_update.scaled(loss)
        return tape.gradient(loss, self.trainable_variables), watched

    def _gradients_of_parts(self, batch: dict[str, tf.Tensor]) -> list[tuple[list[tf.Tensor], dict[str, tf.Tensor]]]:
        clips, seeds = (tf.split(batch[name], self.num_micro_batches) for name in ("clips", "seeds"))
        results = []
        for part in zip(clips, seeds, strict=True):
            # Each waits for the one before, or all would be in memory at once.
            with tf.control_dependencies(tf.nest.flatten(results[-1:])):
                part_clips, part_seeds = (tf.identity(tensor) for tensor in part)
            results.append(self._gradients({"clips": part_clips, "seeds": part_seeds}))
        return results


def spread(vectors: tf.Tensor) -> tf.Tensor:
    """How far the directions of vectors are apart: 1 as for random directions, 0 when all are the same.

    The standard deviation over the batch of each coordinate of the normalised vectors, averaged and times the
    root of their number (Chen and He 2021, SimSiam, figure 2). A collapse of the representation shows here.

    Args:
        vectors: [batch, dimensions] of this replica, any float type; the batch is that of all replicas.

    Returns:
        float32 scalar, without a gradient.
    """
    directions = tf.math.l2_normalize(tf.cast(tf.stop_gradient(vectors), tf.float32), axis=-1)
    _, variance = moments_over_replicas(directions, [0])
    return tf.reduce_mean(tf.sqrt(variance)) * tf.sqrt(float(vectors.shape[-1]))
