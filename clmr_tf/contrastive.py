"""The contrastive model: clips in, views, embeddings, projections, NT-Xent, one step of the optimizer."""

import keras
import tensorflow as tf

from clmr_tf.augment import AugmentationChain
from clmr_tf.nt_xent import nt_xent_with_accuracy


class ContrastiveModel(keras.Model):
    """An encoder and a projector, trained to find two views of a recording among those of all others.

    A batch is `{"clips": float32 [batch, 2, samples], "seeds": int32 [batch, 2, 2], ...}` as `clips.py` makes
    it. The views are made inside the step, on the device that trains. Both views of all pairs go through
    the encoder in one pass, so batch normalisation sees the statistics of all 2N views (the original makes
    two passes of N).

    Args:
        encoder: [batch, samples] -> [batch, embedding].
        projector: [batch, embedding] -> [batch, projection], float32.
        augmentation: Makes a view of a clip and its seed.
        temperature: Of NT-Xent.
        jit_views: Compile the augmentation with XLA.
    """

    def __init__(
        self,
        encoder: keras.Model,
        projector: keras.Model,
        augmentation: AugmentationChain,
        temperature: float = 0.5,
        jit_views: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.encoder = encoder
        self.projector = projector
        self.augmentation = augmentation
        self.temperature = temperature
        self._augment = tf.function(augmentation, jit_compile=True) if jit_views else augmentation

    def build(self, input_shape: tuple[int | None, ...] | None = None) -> None:
        """Makes all weights, so that a checkpoint can be restored before the first step."""
        self.encoder.build()
        self.built = True

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
        h = self.encoder(views, training=training)
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
        """One step of the optimizer; returns float32 scalars by name."""
        views = self.make_views(batch["clips"], batch["seeds"])
        with tf.GradientTape() as tape:
            loss, watched = self.contrast(views, training=True)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {**watched, "gradient_norm": tf.linalg.global_norm(gradients)}


def spread(vectors: tf.Tensor) -> tf.Tensor:
    """How far the directions of vectors are apart: 1 as for random directions, 0 when all are the same.

    The standard deviation over the batch of each coordinate of the normalised vectors, averaged and times the
    root of their number (Chen and He 2021, SimSiam, figure 2). A collapse of the representation shows here.

    Args:
        vectors: [batch, dimensions], any float type.

    Returns:
        float32 scalar.
    """
    directions = tf.math.l2_normalize(tf.cast(vectors, tf.float32), axis=-1)
    deviation = tf.math.reduce_std(directions, axis=0)
    return tf.reduce_mean(deviation) * tf.sqrt(float(vectors.shape[-1]))
