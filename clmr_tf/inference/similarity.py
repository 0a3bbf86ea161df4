"""The songs that are nearest to a song: exact, by the cosine of the angle between their embeddings."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

# Below it a vector has no direction.
_LEAST_LENGTH = 1e-12


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """A song that was found.

    Attributes:
        path: Its file.
        cosine: 1 for the same direction, 0 for none in common.
    """

    path: str
    cosine: float


class SongIndex:
    """Songs by their embeddings, brought to length 1 once.

    Args:
        paths: The files.
        means: One vector of each, float32 [songs, dimensions], finite.
    """

    def __init__(self, paths: Sequence[str], means: np.ndarray) -> None:
        self._paths = tuple(paths)
        self._directions = _direction_of(np.asarray(means, np.float32))

    def nearest(self, vector: np.ndarray, count: int) -> list[Neighbour]:
        """The nearest songs, nearest first; of equally near ones the first in the index.

        Args:
            vector: Of the song that is asked about, float [dimensions], of any length.
            count: How many, at most.
        """
        cosines = self._directions @ _direction_of(np.asarray(vector, np.float32))
        count = min(count, len(cosines))
        if count < 1:
            return []
        # Sorting all of a large index takes longer than the product.
        least = np.partition(cosines, -count)[-count]
        rows = np.flatnonzero(cosines >= least)
        ranked = rows[np.argsort(-cosines[rows], kind="stable")][:count]
        return [Neighbour(self._paths[row], float(cosines[row])) for row in ranked]


def without(neighbours: Sequence[Neighbour], path: Path, count: int) -> list[Neighbour]:
    """The first `count` neighbours of a song that are other files than itself."""
    return [one for one in neighbours if not _is_same_file(Path(one.path), path)][:count]


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    # One of them is gone.
    except OSError:
        return False


def _direction_of(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _LEAST_LENGTH)
