"""Songs that are like some and unlike others, with the reason why, and near-duplicates."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from clmr_tf.inference.library import Library
from clmr_tf.inference.similarity import normalized

# How much less a song to avoid counts than one to be like.
_WEIGHT_OF_UNLIKE = 0.5
_ROWS_PER_BLOCK = 1024


@dataclasses.dataclass(frozen=True)
class Match:
    """Why a song was found.

    Attributes:
        row: The song.
        like_row: Which of the songs of the query it is most similar to.
        like_seconds: Start of the window of that song that matches best.
        seconds: Start of the window of the found song that matches it.
        window_cosine: Similarity of the two windows.
    """

    row: int
    like_row: int
    like_seconds: float
    seconds: float
    window_cosine: float


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two songs that may be the same.

    Attributes:
        first: The one that comes first in the table.
        second: The other.
        cosine: Similarity of their embeddings relative to the mean of the library.
    """

    first: int
    second: int
    cosine: float


def similarities(library: Library, like: Sequence[int], unlike: Sequence[int]) -> np.ndarray:
    """Cosine similarity of each song to the mean of some songs, minus half the mean of others, float32 [songs].

    That of these songs themselves and of silent songs is -infinity.

    Args:
        library: The library.
        like: Rows of at least one song.
        unlike: Rows of songs to stay away from.
    """
    query = library.units[like].mean(axis=0)
    if unlike:
        query = query - _WEIGHT_OF_UNLIKE * library.units[unlike].mean(axis=0)
    cosines = library.units @ normalized(query)
    cosines[[*like, *unlike]] = -np.inf
    cosines[library.is_silent] = -np.inf
    return cosines


def best_matches(library: Library, like: Sequence[int], rows: Sequence[int]) -> list[Match]:
    """Why songs are similar to at least one of the songs `like`."""
    windows_of_like = {row: library.windows_of(row) for row in like}
    found = []
    for row in rows:
        like_row = like[int(np.argmax(library.units[like] @ library.units[row]))]
        (like_times, like_vectors), (times, vectors) = windows_of_like[like_row], library.windows_of(row)
        by_window = normalized(like_vectors) @ normalized(vectors).T
        ours, theirs = np.unravel_index(np.argmax(by_window), by_window.shape)
        best = float(by_window[ours, theirs])
        found.append(Match(row, like_row, float(like_times[ours]), float(times[theirs]), best))
    return found


def near_duplicates(library: Library, least_cosine: float, max_pairs: int) -> tuple[list[Pair], int]:
    """Pairs of songs whose embeddings are almost the same relative to the mean of the library, the most similar first.

    Args:
        library: The library.
        least_cosine: Pairs below it are left out.
        max_pairs: Maximal number of pairs.

    Returns:
        The pairs, and how many there are without this maximum.
    """
    units = normalized(library.means - library.means.mean(axis=0))
    units[library.is_silent] = 0
    pairs: list[Pair] = []
    num_pairs = 0
    for start in range(0, len(units), _ROWS_PER_BLOCK):
        cosines = np.triu(units[start : start + _ROWS_PER_BLOCK] @ units[start:].T, 1)
        places = np.flatnonzero(cosines >= least_cosine)
        num_pairs += len(places)
        # Most songs of a table may be alike.
        places = places[np.argsort(-cosines.flat[places], kind="stable")[:max_pairs]]
        for first, second in zip(*np.unravel_index(places, cosines.shape), strict=True):
            pairs.append(Pair(start + int(first), start + int(second), float(cosines[first, second])))
        pairs = sorted(pairs, key=lambda pair: -pair.cosine)[:max_pairs]
    return pairs, num_pairs
