"""Few labels: which training examples a head may learn from."""

import hashlib
from collections.abc import Sequence

import numpy as np


def songs_within_share(song_ids: Sequence[str], share: float, seed: int) -> set[str]:
    """A random share of the songs: max(1, round(share × songs)) of them.

    The songs stand in an order that a hash of seed and song id decides, and the first ones are taken. So with one
    seed a smaller share is part of every larger one, and a song keeps its place when others come or go.

    Args:
        song_ids: Of every item; repetitions count once.
        share: In (0, 1].
        seed: Decides the order.
    """
    songs = sorted(set(song_ids), key=lambda song: hashlib.sha256(f"{seed}/{song}".encode()).digest())
    return set(songs[: max(1, round(share * len(songs)))])


def balanced_by_combination(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The original's subset: of every distinct combination of tags, max(1, int(n × share)) of its n examples.

    Where many combinations occur a few times only, that is far more than the share: each keeps at least one. After
    `random_undersample_balanced` of version 1 of the code, which is given chunks of 2.7 s; the draws are others.

    Args:
        labels: Multi-hot, [examples, tags].
        share: In (0, 1].
        seed: Decides which.

    Returns:
        Rows of `labels`, ascending, int64 [kept].
    """
    if not len(labels):
        return np.zeros(0, np.int64)
    generator = np.random.default_rng(seed)
    _, combination_of = np.unique(labels, axis=0, return_inverse=True)
    # NumPy 2.0 alone gives it two axes.
    combination_of = combination_of.reshape(-1)
    kept = []
    for combination in range(combination_of.max() + 1):
        rows = np.flatnonzero(combination_of == combination)
        kept.append(generator.permutation(rows)[: max(1, int(len(rows) * share))])
    return np.sort(np.concatenate(kept))
