"""Sounds and embeddings of a run's own music, for TensorBoard."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from clmr_tf.clips import crop_reader, window_starts
from clmr_tf.config import TrainConfig
from clmr_tf.corpus import Corpus
from clmr_tf.models.sample_cnn import SampleCNN
from clmr_tf.run_log import RunLog
from clmr_tf.trained_model import TrainedModel

_MAX_EMBEDDINGS = 2_000
_EMBEDDING_BATCH = 32


def log_views(log: RunLog, model: TrainedModel, dataset: tf.data.Dataset, config: TrainConfig) -> None:
    """Lets the first clips of the run be heard, as they are and as the views that the model sees of them."""
    count = config.num_audio_examples
    if count == 0:
        return
    batch = next(iter(dataset))
    clips = batch["clips"][:count]
    views = tf.reshape(model.make_views(clips, batch["seeds"][:count]), clips.shape)
    for number, name in enumerate(("first", "second")[: clips.shape[1]]):
        log.audio(0, f"{name}_crop/original", clips[:, number].numpy(), config.sample_rate_hz)
        log.audio(0, f"{name}_crop/view", views[:, number].numpy(), config.sample_rate_hz)


def log_embeddings(
    log: RunLog, encoder: SampleCNN, corpus: Corpus, progressed: Callable[[], None] = lambda: None
) -> None:
    """Puts embeddings of the validation split into the projector, with song, tags and time of each window.

    Every item gives the same number of windows, spread over its length, at most 2,000 in all; of more than 2,000
    items as many, spread evenly over the split, give one window each. Without a validation split nothing is shown.
    `progressed` is called after each batch of windows.
    """
    items = corpus.items_of("valid")
    if not items:
        return
    if len(items) > _MAX_EMBEDDINGS:
        items = [items[row] for row in np.linspace(0, len(items) - 1, _MAX_EMBEDDINGS).astype(int)]
    clip_num_samples, rate = encoder.clip_num_samples, encoder.sample_rate_hz
    windows = []
    for row, item in enumerate(items):
        starts = window_starts(item.num_samples, clip_num_samples)
        kept = np.linspace(0, len(starts) - 1, min(len(starts), max(1, _MAX_EMBEDDINGS // len(items))))
        windows += [(row, start) for start in starts[np.unique(kept.astype(int))]]
    read_crop = crop_reader(corpus, items, clip_num_samples)
    rows, starts = (np.array(column, np.int64) for column in zip(*windows, strict=True))
    clips = tf.data.Dataset.from_tensor_slices((rows, starts)).map(read_crop).batch(_EMBEDDING_BATCH)
    vectors = []
    for batch in clips:
        vectors.append(tf.cast(encoder(batch, training=False), tf.float32).numpy())
        progressed()
    metadata = [
        {
            "item": items[row].id,
            "song": items[row].song_id,
            "tags": ", ".join(items[row].tags),
            "seconds": round(start / rate, 2),
        }
        for row, start in windows
    ]
    log.embeddings(np.concatenate(vectors), metadata)
