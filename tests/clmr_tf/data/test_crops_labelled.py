"""Batches of labelled crops: every clip once an epoch, with its own tags."""

from collections import Counter

import numpy as np
import pytest

from clmr_tf.data.crops import BatchShard, labelled_dataset
from clmr_tf.errors import UsageError
from tests.synthetic import synthetic_corpus

TAGS = ("a", "b", "c")
SHAPE = {"clip_num_samples": 1000, "seed": 11}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "melodies"
    return synthetic_corpus(
        folder, num_songs={"train": 5, "valid": 2}, items_per_song=2, num_samples=3000, tag_names=TAGS
    )


def batches_of(corpus, count: int, **arguments) -> list[dict]:
    dataset = labelled_dataset(corpus, "train", **{"batch_size": 4, **SHAPE, **arguments})
    return list(dataset.take(count).as_numpy_iterator())


def test_an_epoch_has_every_item_once_and_may_end_within_a_batch(corpus):
    rows = np.concatenate([batch["item"] for batch in batches_of(corpus, 15)])
    assert [Counter(epoch) for epoch in rows.reshape(6, 10)] == [Counter(range(10))] * 6
    assert len({tuple(epoch) for epoch in rows.reshape(6, 10)}) == 6


def test_a_crop_is_from_its_item_and_has_its_tags(corpus):
    items = corpus.items_of("train")
    (batch,) = batches_of(corpus, 1, batch_size=12)
    for crop, row, labels in zip(batch["clips"], batch["item"], batch["labels"], strict=True):
        samples = corpus.read_samples(items[row])
        starts = np.flatnonzero(samples[: len(samples) - 999] == crop[0, 0])
        assert any(np.array_equal(samples[start : start + 1000], crop[0]) for start in starts)
        assert [TAGS[column] for column in np.flatnonzero(labels)] == list(items[row].tags)
    assert len({tuple(seeds[0]) for seeds in batch["seeds"]}) == 12


def test_a_batch_may_be_larger_than_an_epoch(corpus):
    (batch,) = batches_of(corpus, 1, batch_size=25)
    assert sorted(Counter(batch["item"]).values()) == [2] * 5 + [3] * 5
    # The same clip again is another crop of it.
    assert len({crop.tobytes() for crop in batch["clips"]}) == 25


def test_resumed_runs_and_replicas_read_the_same_batches(corpus):
    whole = batches_of(corpus, 6)
    resumed = batches_of(corpus, 2, first_step=4)
    shards = [batches_of(corpus, 6, shard=BatchShard(num_replicas=2, first_replica=replica)) for replica in range(2)]
    for name in ("clips", "seeds", "item", "labels"):
        for later, batch in zip(resumed, whole[4:], strict=True):
            np.testing.assert_array_equal(later[name], batch[name])
        for batch, *parts in zip(whole, *shards, strict=True):
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), batch[name])


def test_an_empty_split_is_rejected(corpus):
    with pytest.raises(UsageError, match="The test split of melodies is empty"):
        labelled_dataset(corpus, "test", batch_size=4, **SHAPE)
