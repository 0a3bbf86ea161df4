"""Exact nearest neighbours by cosine similarity of embeddings."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

# A vector with a smaller norm counts as zero.
_MIN_NORM = 1e-12


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """A song with its similarity.

    Attributes:
        path: Its file.
        cosine: Cosine similarity, in [-1, 1].
    """

    path: str
    cosine: float


class SongIndex:
    """An index of songs by their normalised embeddings.

    Args:
        paths: The files.
        means: Mean embedding of each, float32 [songs, dimensions], finite.
    """

    def __init__(self, paths: Sequence[str], means: np.ndarray) -> None:
        self._paths = tuple(paths)
        self._unit_vectors = _normalized(np.asarray(means, np.float32))

    def nearest(self, vector: np.ndarray, count: int) -> list[Neighbour]:
        """The nearest songs, nearest first; ties in the order of the index.

        Args:
            vector: Embedding of the query, float [dimensions], of any norm.
            count: Maximal number of songs.
        """
        cosines = self._unit_vectors @ _normalized(np.asarray(vector, np.float32))
        count = min(count, len(cosines))
        if count < 1:
            return []
        # Sorting a whole large index would take longer than the product.
        least = np.partition(cosines, -count)[-count]
        rows = np.flatnonzero(cosines >= least)
        ranked = rows[np.argsort(-cosines[rows], kind="stable")][:count]
        return [Neighbour(self._paths[row], float(cosines[row])) for row in ranked]


def without(neighbours: Sequence[Neighbour], path: Path, count: int) -> list[Neighbour]:
    """The first `count` neighbours that are not the file `path` itself."""
    return [one for one in neighbours if not _is_same_file(Path(one.path), path)][:count]


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    # One of the files no longer exists.
    except OSError:
        return False


def _normalized(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _MIN_NORM)
