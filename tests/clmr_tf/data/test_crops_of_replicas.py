"""Replicas together read the same examples as one device, part by part of a batch."""

import itertools

import numpy as np
import pytest

from clmr_tf.data.crops import BatchShard, pair_dataset
from tests.synthetic import synthetic_corpus

BATCH_SIZE, NUM_STEPS = 16, 5


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    # Two batches in an epoch, and a remainder.
    return synthetic_corpus(tmp_path_factory.mktemp("corpora") / "ramps", num_songs={"train": 37}, num_samples=400)


def read(corpus, shard: BatchShard, first_step: int = 0) -> list[list[dict[str, np.ndarray]]]:
    """The batches of each local replica, step by step."""
    dataset = pair_dataset(
        corpus, "train", batch_size=BATCH_SIZE, clip_num_samples=300, seed=7, first_step=first_step, shard=shard
    )
    count = (NUM_STEPS - first_step) * shard.num_local_replicas
    found = list(dataset.take(count).as_numpy_iterator())
    return [found[index : index + shard.num_local_replicas] for index in range(0, count, shard.num_local_replicas)]


def in_order(of_replicas: list[dict[str, np.ndarray]], num_parts: int) -> dict[str, np.ndarray]:
    """The parts of a batch in order, each concatenated from those of the replicas."""
    names = of_replicas[0]
    parts = {name: [np.split(batch[name], num_parts) for batch in of_replicas] for name in names}
    return {
        name: np.concatenate([shards[part] for part in range(num_parts) for shards in parts[name]]) for name in names
    }


@pytest.mark.parametrize(("num_replicas", "num_parts"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 2)])
def test_parts_of_a_batch_do_not_depend_on_the_number_of_replicas(corpus, num_replicas, num_parts):
    whole = [step[0] for step in read(corpus, BatchShard())]
    shard = BatchShard(num_replicas, num_local_replicas=num_replicas, num_micro_batches=num_parts)
    for expected, of_replicas in zip(whole, read(corpus, shard), strict=True):
        assert [len(batch["item"]) for batch in of_replicas] == [BATCH_SIZE // num_replicas] * num_replicas
        received = in_order(of_replicas, num_parts)
        assert received.keys() == {"clips", "seeds", "item"} and len(set(received["item"])) == BATCH_SIZE
        for name, values in expected.items():
            np.testing.assert_array_equal(received[name], values, err_msg=name)


@pytest.mark.parametrize("num_parts", [1, 2])
def test_workers_read_the_same_as_replicas_of_one_machine(corpus, num_parts):
    machine = read(corpus, BatchShard(4, num_local_replicas=4, num_micro_batches=num_parts))
    workers = [read(corpus, BatchShard(4, first, 2, num_parts)) for first in (0, 2)]
    for expected, *shards in zip(machine, *workers, strict=True):
        for one, other in zip(expected, itertools.chain(*shards), strict=True):
            for name, values in one.items():
                np.testing.assert_array_equal(other[name], values, err_msg=name)


@pytest.mark.parametrize("first_step", [1, 3])
def test_replicas_that_resume_continue_the_same_stream(corpus, first_step):
    shard = BatchShard(2, num_local_replicas=2, num_micro_batches=2)
    whole, late = read(corpus, shard), read(corpus, shard, first_step)
    for expected, received in zip(whole[first_step:], late, strict=True):
        for one, other in zip(expected, received, strict=True):
            for name, values in one.items():
                np.testing.assert_array_equal(other[name], values, err_msg=name)
