"""Chunks against torch.split's arithmetic on samples, and their average against a loop."""

import dataclasses

import numpy as np
import pytest

from clmr_tf.data.labels import Examples
from clmr_tf.models.heads import Head
from clmr_tf.probe.features import Features, chunks_of, clip_scores, mean_by_item, means_of
from clmr_tf.probe.protocols import PROTOCOLS

CLIP = 10
LENGTHS = (10, 11, 19, 20, 21, 30, 39)


@pytest.fixture
def features():
    """Items of which every window's feature is the item's row and the window's start."""
    windows = [(row, start) for row, length in enumerate(LENGTHS) for start in range(0, length - CLIP + 1, CLIP)]
    return Features(np.array(windows, np.float32), np.array([row for row, _ in windows]), np.array(LENGTHS))


def split_without_last(length: int) -> list[int]:
    """Where the chunks of `torch.split(samples, CLIP)[:-1]` begin."""
    return list(range(0, length, CLIP))[:-1]


def test_the_last_chunk_is_dropped_like_the_original_s(features):
    chunks, num_rescued = chunks_of(features, CLIP, drops_last=True)
    expected = [(row, start) for row, length in enumerate(LENGTHS) for start in split_without_last(length) or [0]]
    assert chunks.vectors.tolist() == [list(window) for window in expected]
    assert chunks.item.tolist() == [row for row, _ in expected]
    # Of the first item, the original had nothing left and crashed; of 20 and 30 it lost a whole chunk.
    assert num_rescued == 1 and len(chunks.item) == len(features.item) - 2


def test_all_whole_chunks_can_be_kept(features):
    chunks, num_rescued = chunks_of(features, CLIP, drops_last=False)
    assert num_rescued == 0 and len(chunks.item) == sum(length // CLIP for length in LENGTHS)


@pytest.mark.parametrize("single_label", [True, False])
@pytest.mark.parametrize("averaged", ["probabilities", "logits"])
def test_a_clip_is_scored_by_the_average_of_its_chunks(averaged, single_label):
    generator = np.random.default_rng(0)
    weights = generator.standard_normal((3, 4)).astype(np.float32), generator.standard_normal(4).astype(np.float32)
    head = Head(np.zeros(3, np.float32), np.ones(3, np.float32), weights)
    item = np.array([0, 1, 1, 1, 2, 2])
    examples = Examples(generator.standard_normal((6, 3)).astype(np.float32), item)
    protocol = dataclasses.replace(PROTOCOLS["released"], averaged=averaged)

    def activation(logits):
        return np.exp(logits) / np.exp(logits).sum() if single_label else 1 / (1 + np.exp(-logits))

    received = clip_scores(head, examples, 3, protocol, single_label)
    for number in range(3):
        logits = [vector.astype(float) @ weights[0] + weights[1] for vector in examples.vectors[item == number]]
        each = [activation(one) for one in logits]
        expected = np.mean(each, axis=0) if averaged == "probabilities" else activation(np.mean(logits, axis=0))
        np.testing.assert_allclose(received[number], expected, rtol=1e-5)


def test_a_clip_s_mean_is_over_its_windows():
    examples = Examples(np.array([[1.0], [2.0], [6.0]], np.float32), np.array([0, 1, 1]))
    means = means_of(examples, 2)
    assert means.vectors.tolist() == [[1.0], [4.0]] and means.item.tolist() == [0, 1]
    assert means.vectors.dtype == np.float32


def test_clips_whose_chunks_are_all_alike_stay_tied_whatever_their_number():
    # Otherwise a guess that is the same for all clips would rank them by their lengths.
    item = np.repeat(np.arange(40), np.arange(1, 41))
    means = mean_by_item(np.tile([0.1, 1 / 3], (len(item), 1)), item, 40)
    assert np.unique(means, axis=0).tolist() == [[0.1, 1 / 3]]
