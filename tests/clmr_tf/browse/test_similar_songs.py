"""Songs that are like others, and near-duplicates, against cosines of all songs."""

import numpy as np
import pytest

from clmr_tf.browse.similar_songs import best_matches, near_duplicates, similarities
from clmr_tf.inference.library import Library
from clmr_tf.inference.similarity import normalized
from tests.clmr_tf.taught_library import write_table


@pytest.fixture
def library(tmp_path):
    write_table(tmp_path / "music", tmp_path / "table")
    return Library(tmp_path / "table")


def test_similarities_are_those_to_the_mean_of_some_minus_half_the_mean_of_others(library):
    units = library.means / np.linalg.norm(library.means, axis=1, keepdims=True)
    query = (units[1] + units[2]) / 2 - units[8] / 2
    expected = units @ query / np.linalg.norm(query)
    # The songs themselves and the silent one.
    expected[[1, 2, 8, len(units) - 1]] = -np.inf
    np.testing.assert_allclose(similarities(library, [1, 2], [8]), expected, atol=1e-5)


def test_matches_are_the_two_windows_that_are_most_alike(library):
    # The last window of song 0 is like those of the folder harp.
    own, other = best_matches(library, [8, 14], [0, 15])
    assert (own.row, own.like_row) == (0, 8) and (other.row, other.like_row) == (15, 14)
    assert own.seconds == library.windows_of(0)[0][-1]
    cosines = normalized(library.windows_of(8)[1]) @ normalized(library.windows_of(0)[1]).T
    assert own.window_cosine == pytest.approx(cosines.max(), abs=1e-6) and own.window_cosine > 0.5
    assert own.like_seconds == library.windows_of(8)[0][cosines.max(axis=1).argmax()]


def test_near_duplicates_are_the_pairs_above_the_limit(library):
    library.means[4] = library.means[9] * 1.01
    centred = library.means - library.means.mean(axis=0)
    cosines = normalized(centred) @ normalized(centred).T
    silent = len(library.paths) - 1
    expected = [
        (first, second)
        for first in range(silent)
        for second in range(first + 1, silent)
        if cosines[first, second] >= 0.6
    ]
    found, num_found = near_duplicates(library, 0.6, 1000)
    assert sorted((pair.first, pair.second) for pair in found) == expected and num_found == len(expected)
    assert (found[0].first, found[0].second) == (4, 9) and found[0].cosine == pytest.approx(1, abs=1e-3)
    assert near_duplicates(library, 0.6, 2) == (found[:2], len(expected))
