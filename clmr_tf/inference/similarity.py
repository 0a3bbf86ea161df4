"""Exact nearest neighbours by cosine similarity of embeddings."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from clmr_tf.console import printable
from clmr_tf.inference.tables import Songs

# A vector with a smaller norm counts as zero.
_MIN_NORM = 1e-12


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """A song with its similarity.

    Attributes:
        path: Its file.
        cosine: Cosine similarity, in [-1, 1].
        is_silent: Whether it is silent, so that the similarity is meaningless.
    """

    path: str
    cosine: float
    is_silent: bool = False


class SongIndex:
    """An index of songs in memory by their normalised embeddings.

    Args:
        songs: The songs, with finite embeddings.
    """

    def __init__(self, songs: Songs) -> None:
        self._songs = songs
        self._unit_vectors = normalized(songs.means)

    def nearest(self, vector: np.ndarray, count: int) -> list[Neighbour]:
        """The nearest songs, nearest first; ties in the order of the index.

        Args:
            vector: Embedding of the query, float [dimensions], of any norm.
            count: Maximal number of songs.
        """
        cosines = self._unit_vectors @ normalized(vector)
        count = min(count, len(cosines))
        if count < 1:
            return []
        # Sorting a whole large index would take longer than the product.
        least = np.partition(cosines, -count)[-count]
        rows = np.flatnonzero(cosines >= least)
        ranked = rows[np.argsort(-cosines[rows], kind="stable")][:count]
        paths, is_silent = self._songs.paths, self._songs.is_silent
        return [Neighbour(paths[row], float(cosines[row]), bool(is_silent[row])) for row in ranked]


def nearest_in_blocks(blocks: Iterable[Songs], vectors: Sequence[np.ndarray], count: int) -> list[list[Neighbour]]:
    """The nearest songs of several queries as `SongIndex.nearest` gives them; one block is in memory at a time.

    Args:
        blocks: From `SongTable.blocks`.
        vectors: The queries.
        count: Maximal number of songs for each.
    """
    nearest: list[list[Neighbour]] = [[] for _ in vectors]
    for block in blocks:
        index = SongIndex(block)
        for query, vector in enumerate(vectors):
            both = [*nearest[query], *index.nearest(vector, count)]
            # The sort is stable, so ties keep the order of the blocks.
            nearest[query] = sorted(both, key=lambda one: -one.cosine)[:count]
    return nearest


def without(neighbours: Sequence[Neighbour], path: Path, count: int) -> list[Neighbour]:
    """The first `count` neighbours that are not the file `path` itself."""
    return [one for one in neighbours if not _is_same_file(one.path, path)][:count]


def _is_same_file(one: str, other: Path) -> bool:
    try:
        # No file has the printed form of a name that is not UTF-8.
        return one == printable(str(other)) or other.samefile(one)
    # One of the files no longer exists.
    except OSError:
        return False


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., dimensions] divided by their norms, float32; zeros stay zeros."""
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _MIN_NORM)
