"""From the windows of clips to training examples, and from the scores of windows to the score of a clip."""

import dataclasses

import numpy as np

from clmr_tf.evaluation.feature_cache import Features
from clmr_tf.evaluation.protocols import Protocol
from clmr_tf.head import Head, probabilities


@dataclasses.dataclass(frozen=True)
class Examples:
    """What a head is shown.

    Attributes:
        vectors: float32 [examples, dimensions].
        item: Row of the item of each, int64 [examples].
    """

    vectors: np.ndarray
    item: np.ndarray

    def at(self, rows: np.ndarray) -> "Examples":
        """Some of them."""
        return Examples(self.vectors[rows], self.item[rows])


def chunks_of(features: Features, clip_num_samples: int, drops_last: bool) -> tuple[Examples, int]:
    """The chunks of each item.

    Args:
        features: Of "all" windows, so that partial ones are gone already.
        clip_num_samples: Length of a window.
        drops_last: Leave out what the original does: with an item whose length is an exact multiple of a window's, a
            whole one; but keep the window of an item that would have none left.

    Returns:
        The chunks, and the number of items that would have had none.
    """
    if not drops_last:
        return Examples(features.vectors, features.item), 0
    num_windows = np.bincount(features.item, minlength=len(features.num_samples))
    is_exact = features.num_samples % clip_num_samples == 0
    is_rescued = is_exact & (num_windows == 1)
    is_last = np.append(features.item[1:] != features.item[:-1], True)
    is_dropped = is_last & (is_exact & ~is_rescued)[features.item]
    return Examples(features.vectors[~is_dropped], features.item[~is_dropped]), int(is_rescued.sum())


def means_of(examples: Examples, num_items: int) -> Examples:
    """One example an item, the mean of its own; every item needs one."""
    return Examples(mean_by_item(examples.vectors, examples.item, num_items).astype(np.float32), np.arange(num_items))


def mean_by_item(values: np.ndarray, item: np.ndarray, num_items: int) -> np.ndarray:
    """Means over the rows of each item: [rows, ...], int [rows] ascending -> float64 [num_items, ...]."""
    first = np.searchsorted(item, np.arange(num_items))
    # Around the first row of each item: the mean of equal rows is that row, and items that are alike stay tied.
    differences = values.astype(np.float64) - values[first][item]
    return values[first] + np.add.reduceat(differences, first, axis=0) / np.bincount(item)[:, None]


def clip_scores(head: Head, examples: Examples, num_items: int, protocol: Protocol, single_label: bool) -> np.ndarray:
    """Probabilities of clips, float64 [items, tags]: those of their examples averaged as the protocol says."""
    logits = head.logits(examples.vectors).astype(np.float64)
    if protocol.averaged == "logits":
        return probabilities(mean_by_item(logits, examples.item, num_items), single_label)
    return mean_by_item(probabilities(logits, single_label), examples.item, num_items)
