"""From a prepared corpus to batches of labelled crops, for the objectives with labels."""

import numpy as np
import tensorflow as tf

from clmr_tf.clips import WHOLE_BATCH, BatchShare, crop_dataset, num_units
from clmr_tf.corpus import Corpus
from clmr_tf.errors import UsageError


def labelled_dataset(
    corpus: Corpus,
    split: str,
    *,
    batch_size: int,
    clip_num_samples: int,
    seed: int,
    first_step: int = 0,
    sampling_unit: str = "clip",
    share: BatchShare = WHOLE_BATCH,
) -> tf.data.Dataset:
    """Batches of one random crop of each item and its tags, without end.

    An epoch visits every item once, in an order of its own, and the next one begins where it ends, be it in the
    middle of a batch: with few labels an epoch may be shorter than a batch. The released code drops the remainder.

    Args:
        corpus: Where the clips and their tags come from.
        split: "train", "valid" or "test".
        batch_size: Crops per batch.
        clip_num_samples: Length of a crop.
        seed: Run seed, 0 to 2^31 - 1.
        first_step: Batches to leave out at the start; costs nothing.
        sampling_unit: What an epoch visits once, "clip" or "song" (one item of each).
        share: What to read of each batch, see `pair_dataset`.

    Returns:
        Dataset of {"clips": float32 [n, 1, clip_num_samples] in [-1, 1], "seeds": int32 [n, 1, 2], "item": int64 [n]
        (row in `corpus.items_of(split)`), "labels": float32 [n, tags], multi-hot}.

    Raises:
        UsageError: If the split is empty.
    """
    count = num_units(corpus, split, sampling_unit)
    if count == 0:
        raise UsageError(f"The {split} split of {corpus.manifest.name} is empty; an objective with labels needs one.")
    crops = crop_dataset(
        corpus,
        split,
        num_crops=1,
        epoch_size=count,
        batch_size=batch_size,
        clip_num_samples=clip_num_samples,
        seed=seed,
        first_step=first_step,
        sampling_unit=sampling_unit,
        share=share,
    )
    labels = tf.constant(corpus.multi_hot(corpus.items_of(split)).astype(np.uint8))
    return crops.map(lambda batch: {**batch, "labels": tf.cast(tf.gather(labels, batch["item"]), tf.float32)})
