"""Loss and scores on the validation split, on the same crops every time."""

import logging
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from clmr_tf import metrics
from clmr_tf.config.train import TrainConfig
from clmr_tf.data.corpus import Corpus
from clmr_tf.data.crops import labelled_dataset, num_units, pair_dataset
from clmr_tf.train.step import ContrastiveModel, SupervisedModel, classification_loss

logger = logging.getLogger(__name__)

# Not the seed of the run: different runs are then measured on the same views.
VALIDATION_SEED = 0


def build_validation(
    model: ContrastiveModel, corpus: Corpus, config: TrainConfig
) -> Callable[[Callable[[], None]], dict[str, float]] | None:
    """Builds the validation of a run without labels.

    The batches have the run's batch size, or as many pairs as the validation split has songs (or clips) if those are
    fewer; loss and accuracy depend on it. The pairs and their views are the first of an endless stream, so they are
    the same every time. Batch normalisation uses its running statistics.

    Args:
        model: The model, which is measured on one device, with all negatives of a batch.
        corpus: Its "valid" split is used.
        config: Determines the number of pairs.

    Returns:
        A function that returns "validation/loss" and "validation/accuracy", means over the batches; it calls its
        argument after each batch. None, with a warning, if there is too little music.
    """
    batch_size = min(num_units(corpus, "valid", config.sampling_unit), config.batch_size, config.num_validation_pairs)
    if batch_size < 2:
        logger.warning(
            "The corpus %s has fewer than 2 %ss to validate on; the run is not validated.",
            corpus.manifest.name,
            config.sampling_unit,
        )
        return None
    batches = pair_dataset(
        corpus,
        "valid",
        batch_size=batch_size,
        clip_num_samples=model.encoder.clip_num_samples,
        seed=VALIDATION_SEED,
        sampling_unit=config.sampling_unit,
    ).take(max(1, config.num_validation_pairs // batch_size))

    @tf.function(autograph=False)
    def measure(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        views = model.make_views(batch["clips"], batch["seeds"])
        loss, metrics = model.loss_and_metrics(views, batch, training=False)
        return tf.stack([tf.cast(value, tf.float32) for value in (loss, metrics["contrastive_accuracy"])])

    def validate(after_batch: Callable[[], None] = lambda: None) -> dict[str, float]:
        measured = []
        for batch in batches:
            measured.append(measure(batch))
            after_batch()
        loss, accuracy = tf.reduce_mean(tf.stack(measured), axis=0).numpy()
        return {"validation/loss": float(loss), "validation/accuracy": float(accuracy)}

    return validate


def build_labelled_validation(
    model: SupervisedModel, corpus: Corpus, config: TrainConfig
) -> Callable[[Callable[[], None]], dict[str, float]]:
    """Builds the validation of a run with labels.

    The crops are the first of an endless stream that draws from every clip of the validation split in turn, so they are
    the same every time. They are not augmented. (The released code draws new crops every time.)

    Args:
        model: The model, which is measured on one device. Batch normalisation uses its running statistics; there is no
            dropout.
        corpus: Its "valid" split is used.
        config: Determines the number of crops, `num_validation_pairs`.

    Returns:
        A function that returns "validation/loss", and "validation/accuracy" for single labels or
        "validation/average_precision", the macro average over the tags that occur, for several. It calls its argument
        after each batch.
    """
    num_crops = config.num_validation_pairs
    batch_size = min(config.batch_size, num_crops)
    batches = labelled_dataset(
        corpus,
        "valid",
        batch_size=batch_size,
        clip_num_samples=model.encoder.clip_num_samples,
        seed=VALIDATION_SEED,
        sampling_unit=config.sampling_unit,
    ).take(-(-num_crops // batch_size))
    classify = tf.function(lambda clips: tf.cast(model(clips[:, 0], training=False), tf.float32), autograph=False)

    def validate(after_batch: Callable[[], None] = lambda: None) -> dict[str, float]:
        logits, labels = [], []
        for batch in batches:
            logits.append(classify(batch["clips"]))
            labels.append(batch["labels"])
            after_batch()
        # The last batch may contain more crops than needed.
        all_logits, all_labels = (tf.concat(parts, 0)[:num_crops] for parts in (logits, labels))
        loss = classification_loss(all_logits, all_labels, model.single_label)
        score = _score(all_labels.numpy(), all_logits.numpy(), model.single_label)
        return {"validation/loss": float(loss), **score}

    return validate


def _score(labels: np.ndarray, logits: np.ndarray, single_label: bool) -> dict[str, float]:
    if not np.isfinite(logits).all():
        return {}
    if single_label:
        return {"validation/accuracy": metrics.accuracy(labels.argmax(axis=1), logits)}
    if not (labels.min(axis=0) != labels.max(axis=0)).any():
        return {}
    return {"validation/average_precision": metrics.average_precision(labels, logits)[0]}
