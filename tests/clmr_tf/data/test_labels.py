"""Label subsets: their sizes, nesting and seeds, and the balanced one of the original code."""

import hashlib
import itertools
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from clmr_tf.data.labels import choose_labels, sample_per_combination, sample_songs
from tests.synthetic import synthetic_corpus

SONGS = [f"song {number}" for number in range(1000)]


def sampled(songs, fraction, seed):
    return {songs[place] for place in sample_songs(pa.chunked_array([songs]), fraction, seed)}


def test_smaller_fractions_are_subsets_of_larger_ones():
    subsets = [sampled(SONGS, fraction, seed=3) for fraction in (0.001, 0.01, 0.02, 0.1, 0.5, 1.0)]
    assert [len(subset) for subset in subsets] == [1, 10, 20, 100, 500, 1000]
    for smaller, larger in itertools.pairwise(subsets):
        assert smaller < larger


def test_songs_depend_on_the_seed_but_not_on_order():
    subset = sampled(SONGS, 0.1, seed=3)
    assert subset == set(sorted(SONGS, key=lambda song: hashlib.sha256(f"3/{song}".encode()).digest())[:100])
    assert subset == sampled(SONGS[::-1], 0.1, seed=3)
    # Two independent samples of 100 of 1,000 songs have 10 in common on average, standard deviation 2.8.
    assert len(subset & sampled(SONGS, 0.1, seed=4)) < 25
    numbers = [int(song.split()[1]) for song in subset]
    assert abs(np.mean(numbers) - 499.5) < 4 * 289 / np.sqrt(100)


def test_at_least_one_song_is_chosen():
    assert len(sampled(["a", "b"], 0.01, seed=0)) == 1


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 1.0])
def test_each_combination_keeps_its_fraction_but_at_least_one_example(fraction):
    generator = np.random.default_rng(0)
    labels = (generator.uniform(size=(600, 5)) < [0.5, 0.3, 0.1, 0.05, 0.02]).astype(np.float32)
    rows = sample_per_combination(labels, fraction, seed=1)
    assert len(set(rows)) == len(rows) and (np.diff(rows) > 0).all()
    of, kept = (Counter(map(tuple, some.tolist())) for some in (labels, labels[rows]))
    assert kept == {combination: max(1, int(count * fraction)) for combination, count in of.items()}
    assert (rows == sample_per_combination(labels, fraction, seed=1)).all()
    if fraction == 0.1:
        assert not np.array_equal(rows, sample_per_combination(labels, fraction, seed=2))


def test_the_choice_is_described_with_its_counts(tmp_path):
    # Ten songs of two clips; song s has the tag s modulo 4. Three examples per clip.
    tags = ("a", "b", "c", "d")
    corpus = synthetic_corpus(
        tmp_path / "songs", num_songs={"train": 10}, items_per_song=2, num_samples=10, tag_names=tags
    )
    items, clip_of_example = corpus.items_of("train"), np.repeat(np.arange(20), 3)
    chosen, description = choose_labels(corpus, clip_of_example, song_fraction=0.2, seed=5)
    songs = sampled(sorted({item.song_id for item in items}), 0.2, 5)
    assert chosen.tolist() == [row for row in range(60) if items[row // 3].song_id in songs]
    present = {tag for item in items if item.song_id in songs for tag in item.tags}
    assert description == {
        "choice": "fraction of the songs",
        "fraction": 0.2,
        "num_songs": 2,
        "num_clips": 4,
        "num_examples": 12,
        "of": {"num_songs": 10, "num_clips": 20, "num_examples": 60},
        "tags_without_positives": [tag for tag in tags if tag not in present],
    }
    chosen, description = choose_labels(corpus, clip_of_example, combination_fraction=0.01)
    # One example of each of the four tags.
    assert sorted(items[row // 3].tags for row in chosen) == [(tag,) for tag in tags]
    assert description["num_examples"] == 4 and description["tags_without_positives"] == []
    chosen, description = choose_labels(corpus, clip_of_example)
    assert len(chosen) == 60 and (description["choice"], description["fraction"]) == ("all", 1.0)
