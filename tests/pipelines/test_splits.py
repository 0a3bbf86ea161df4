import collections

import pytest

from pipelines.preparation.sources import split_songs


def counts(num_songs, valid_fraction, test_fraction):
    splits = split_songs([f"song {number}" for number in range(num_songs)], valid_fraction, test_fraction)
    assert len(splits) == num_songs
    found = collections.Counter(splits.values())
    return found["train"], found["valid"], found["test"]


@pytest.mark.parametrize(
    ("num_songs", "valid_fraction", "test_fraction", "expected"),
    [
        (1000, 0.1, 0.0, (900, 100, 0)),
        (1000, 0.1, 0.2, (700, 100, 200)),
        (14, 0.1, 0.0, (13, 1, 0)),
        (16, 0.1, 0.0, (14, 2, 0)),
        (3, 0.1, 0.1, (1, 1, 1)),
        (2, 0.1, 0.1, (1, 1, 0)),
        (2, 0.9, 0.0, (1, 1, 0)),
        (10, 0.9, 0.05, (1, 9, 0)),
        (1, 0.5, 0.4, (1, 0, 0)),
        (0, 0.1, 0.1, (0, 0, 0)),
        (50, 0.0, 0.0, (50, 0, 0)),
    ],
)
def test_split_sizes_are_exact(num_songs, valid_fraction, test_fraction, expected):
    assert counts(num_songs, valid_fraction, test_fraction) == expected


def test_a_split_depends_only_on_the_names():
    songs = [f"album {number % 7}/{number}.mp3" for number in range(200)]
    assert split_songs(songs, 0.2, 0.1) == split_songs(reversed(songs * 2), 0.2, 0.1)


def test_splits_are_unrelated_to_the_order_of_names():
    songs = [f"{number:04d}" for number in range(1000)]
    splits = split_songs(songs, 0.5, 0.0)
    first_half = sum(splits[song] == "valid" for song in songs[:500])
    # 250 expected, with a standard deviation of 8.
    assert 210 < first_half < 290


def test_names_that_are_not_utf8_have_a_split():
    assert set(split_songs(["\udcff", "a"], 0.5, 0.0).values()) == {"train", "valid"}
