"""The contrastive objective: clips in, views, embeddings, projections, NT-Xent."""

from collections.abc import Mapping

import keras
import tensorflow as tf

from clmr_tf.augment import AugmentationChain
from clmr_tf.nt_xent import nt_xent_with_accuracy
from clmr_tf.trained_model import TrainedModel, moments_of_directions


class ContrastiveModel(TrainedModel):
    """An encoder and a projector, trained to find two views of a recording among those of all others.

    A batch is `{"clips": float32 [batch, 2, samples], "seeds": int32 [batch, 2, 2], ...}` as `clips.py` makes
    it. Both views of all pairs go through the encoder in one pass, so batch normalisation sees the statistics of all
    2N views; with `two_passes` it sees those of N first and N second views, as in the original. Where both views are
    made alike, as by all presets but the asymmetric ones, the two differ by the noise of an estimate from N views
    instead of 2N.

    On several replicas each scores its own views against those of all.

    Args:
        encoder: [batch, samples] -> [batch, embedding].
        projector: [batch, embedding] -> [batch, projection], float32.
        augmentation: Makes a view of a clip and its seed.
        temperature: Of NT-Xent.
        two_passes: Encode the first and the second views apart.
        **kwargs: Of `TrainedModel`.
    """

    def __init__(
        self,
        encoder: keras.Model,
        projector: keras.Model,
        augmentation: AugmentationChain,
        temperature: float = 0.5,
        two_passes: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(encoder, augmentation, **kwargs)
        self.projector = projector
        self.temperature = temperature
        self.two_passes = two_passes

    @property
    def parts(self) -> dict[str, keras.Model]:
        """Encoder and projector."""
        return {"encoder": self.encoder, "projector": self.projector}

    @property
    def watched_of_score(self) -> tuple[str, ...]:
        """Loss, accuracy, and three measures of a collapse."""
        return ("loss", "contrastive_accuracy", "embedding_mean", "embedding_spread", "projection_spread")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Projections of views: [batch, samples] -> [batch, projection]."""
        return self.projector(self.encoder(inputs, training=training), training=training)

    def prepare(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The views of a batch."""
        return self.make_views(batch["clips"], batch["seeds"])

    def score(self, prepared: tf.Tensor, training: bool) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The loss of a batch of views (rows as `make_views` returns them) and what to watch beside it."""
        h = self._encode(prepared, training)
        z = self.projector(h, training=training)
        loss, accuracy = nt_xent_with_accuracy(z[0::2], z[1::2], self.temperature)
        return loss, {
            "loss": loss,
            "contrastive_accuracy": accuracy,
            "embedding_mean": tf.reduce_mean(tf.cast(h, tf.float32)),
            "embedding_spread": moments_of_directions(h),
            "projection_spread": moments_of_directions(z),
        }

    def _encode(self, views: tf.Tensor, training: bool) -> tf.Tensor:
        if not self.two_passes:
            return self.encoder(views, training=training)
        h = [self.encoder(views[number::2], training=training) for number in (0, 1)]
        return tf.reshape(tf.stack(h, axis=1), [-1, h[0].shape[-1]])
