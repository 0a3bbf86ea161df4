"""The objectives with labels: one crop of a clip in, its tags out."""

from collections.abc import Mapping

import keras
import tensorflow as tf

from clmr_tf.augment import AugmentationChain
from clmr_tf.augment.randomness import fold, uniform_rows
from clmr_tf.trained_model import TrainedModel, moments_of_directions


class SupervisedModel(TrainedModel):
    """An encoder and a classifier, trained on labelled crops: the supervised SampleCNN of the paper's comparison.

    A batch is `{"clips": float32 [batch, 1, samples], "seeds": int32 [batch, 1, 2], "labels": float32 [batch, tags]}`
    as `labelled_clips.py` makes it. The loss is the mean over crops and tags of the binary cross-entropy, or where
    every clip has one label the mean over crops of the cross-entropy, as in the released code.

    Args:
        encoder: [batch, samples] -> [batch, embedding].
        classifier: [batch, embedding] -> logits [batch, tags], float32.
        augmentation: Makes a view of a crop and its seed; the released code learns from the crops alone.
        single_label: Every clip has exactly one label.
        dropout: Share of each embedding that is left out at random while training; what is kept is scaled up by as
            much. Which, is a function of the seed of the crop.
        **kwargs: Of `TrainedModel`.
    """

    def __init__(
        self,
        encoder: keras.Model,
        classifier: keras.Model,
        augmentation: AugmentationChain,
        *,
        single_label: bool,
        dropout: float = 0.5,
        **kwargs,
    ) -> None:
        super().__init__(encoder, augmentation, **kwargs)
        self.classifier = classifier
        self.single_label = single_label
        self.dropout = dropout

    @property
    def parts(self) -> dict[str, keras.Model]:
        """Encoder and classifier."""
        return {"encoder": self.encoder, "classifier": self.classifier}

    @property
    def watched_of_score(self) -> tuple[str, ...]:
        """Loss, accuracy where there is one, and two measures of a collapse."""
        return ("loss", *(["accuracy"] if self.single_label else []), "embedding_mean", "embedding_spread")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits of crops: [batch, samples] -> [batch, tags]."""
        return self.classifier(self.encoder(inputs, training=training), training=training)

    def prepare(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The views of the crops, [batch, samples], with their labels and seeds."""
        views = self.make_views(batch["clips"], batch["seeds"])
        return {"views": views, "labels": batch["labels"], "seeds": batch["seeds"][:, 0]}

    def score(self, prepared: Mapping[str, tf.Tensor], training: bool) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The loss of what `prepare` made, and what to watch beside it."""
        h = self.encoder(prepared["views"], training=training)
        kept = drop(h, prepared["seeds"], self.dropout) if training and self.dropout else h
        logits = self.classifier(kept, training=training)
        labels = tf.cast(prepared["labels"], logits.dtype)
        watched = {
            "loss": classification_loss(logits, labels, self.single_label),
            "embedding_mean": tf.reduce_mean(tf.cast(h, tf.float32)),
            "embedding_spread": moments_of_directions(h),
        }
        if self.single_label:
            is_right = tf.equal(tf.argmax(logits, axis=1), tf.argmax(labels, axis=1))
            watched["accuracy"] = tf.reduce_mean(tf.cast(is_right, tf.float32))
        return watched["loss"], {name: watched[name] for name in self.watched_of_score}


def classification_loss(logits: tf.Tensor, labels: tf.Tensor, single_label: bool) -> tf.Tensor:
    """Mean cross-entropy of logits against multi-hot labels, both float [batch, tags]; a scalar of their type.

    Args:
        logits: Before sigmoid or softmax.
        labels: 1 where a crop has the tag.
        single_label: Softmax over the tags; else a sigmoid of each, and the mean over the tags as well.
    """
    if single_label:
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels, logits))
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))


def drop(vectors: tf.Tensor, seeds: tf.Tensor, share: float) -> tf.Tensor:
    """Dropout that is a function of the seed of each row, whatever batch or replica it is in.

    Args:
        vectors: [batch, dimensions].
        seeds: int32 [batch, 2].
        share: Expected share that becomes 0, in [0, 1); the others are divided by 1 - share.
    """
    uniforms = uniform_rows(fold(seeds, "dropout"), vectors.shape[1:])
    return tf.where(uniforms >= share, vectors / tf.cast(1 - share, vectors.dtype), tf.zeros_like(vectors))
