"""Loss and accuracy on music that is not learned from, on the same views every time."""

import logging
from collections.abc import Callable

import tensorflow as tf

from clmr_tf.clips import num_units, pair_dataset
from clmr_tf.config import TrainConfig
from clmr_tf.contrastive import ContrastiveModel
from clmr_tf.corpus import Corpus

logger = logging.getLogger(__name__)

# Not the run's: all runs that are compared shall be measured on the same views.
VALIDATION_SEED = 0


def build_validation(
    model: ContrastiveModel, corpus: Corpus, config: TrainConfig
) -> Callable[[Callable[[], None]], dict[str, float]] | None:
    """Makes the measurement of a run, or None, with a warning, if there is no music for it.

    The batches have the run's batch size where the validation split has as many songs (or clips), and as many pairs
    as the split has otherwise; loss and accuracy depend on it. They and their views are the first of an endless
    stream, so every measurement sees the same. Batch normalisation uses its running statistics.

    Args:
        model: What is measured, on one device and with all negatives of a batch.
        corpus: Its "valid" split is used.
        config: Says how many pairs.

    Returns:
        A function that gives "validation/loss" and "validation/accuracy", means over the batches; it calls its
        argument after each batch.
    """
    batch_size = min(num_units(corpus, "valid", config.sampling_unit), config.batch_size, config.num_validation_pairs)
    if batch_size < 2:
        logger.warning(
            "The corpus %s has no 2 %ss to validate on; the run is not validated.",
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
        _, watched = model.score(model.prepare(batch), training=False)
        return tf.stack([tf.cast(watched[name], tf.float32) for name in ("loss", "contrastive_accuracy")])

    def validate(progressed: Callable[[], None] = lambda: None) -> dict[str, float]:
        measured = []
        for batch in batches:
            measured.append(measure(batch))
            progressed()
        loss, accuracy = tf.reduce_mean(tf.stack(measured), axis=0).numpy()
        return {"validation/loss": float(loss), "validation/accuracy": float(accuracy)}

    return validate
