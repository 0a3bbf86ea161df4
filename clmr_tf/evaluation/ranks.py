"""ROC-AUC and average precision of many resamplings of the same scores, which are sorted only once."""

import numpy as np


class RankedScores:
    """Scores sorted per tag, to be weighed by how often each example counts.

    Args:
        labels: 0 or 1, [examples, tags].
        scores: Higher for more likely, [examples, tags].
    """

    def __init__(self, labels: np.ndarray, scores: np.ndarray) -> None:
        self._order = np.argsort(-scores, axis=0, kind="stable")
        self._positive = np.take_along_axis(np.asarray(labels, np.float64), self._order, axis=0)
        ranked = np.take_along_axis(scores, self._order, axis=0)
        # Examples of one score are taken together: from which rank, to which.
        changes = ranked[1:] != ranked[:-1]
        edge = np.ones((1, scores.shape[1]), bool)
        ranks = np.arange(len(scores))[:, None]
        self._group_first = np.maximum.accumulate(np.where(np.concatenate([edge, changes]), ranks, 0), axis=0)
        lasts = np.where(np.concatenate([changes, edge]), ranks, len(scores))
        self._group_last = np.minimum.accumulate(lasts[::-1], axis=0)[::-1]

    def both(self, weights: np.ndarray | None = None) -> tuple[float, float]:
        """ROC-AUC and average precision, averaged over the tags that have positives and negatives of any weight.

        Args:
            weights: How often each example counts, [examples]; once if None.

        Returns:
            The two, NaN if there is no such tag. With whole numbers they are what scikit-learn gives for examples
            that are repeated as often.
        """
        counts = np.ones(self._order.shape) if weights is None else np.asarray(weights, np.float64)[self._order]
        positive, negative = counts * self._positive, counts * (1 - self._positive)
        hits, misses = np.cumsum(positive, axis=0), np.cumsum(negative, axis=0)
        num_positive, num_negative = hits[-1], misses[-1]
        scorable = (num_positive > 0) & (num_negative > 0)
        if not scorable.any():
            return np.nan, np.nan
        hits_to_last = np.take_along_axis(hits, self._group_last, axis=0)
        misses_to_last = np.take_along_axis(misses, self._group_last, axis=0)
        misses_before = np.take_along_axis(misses - negative, self._group_first, axis=0)
        # A negative of the same score counts half.
        in_order = positive * (num_negative - (misses_to_last + misses_before) / 2)
        # Where nothing counts yet, the precision is asked for by no positive.
        precision = hits_to_last / np.maximum(hits_to_last + misses_to_last, np.finfo(np.float64).tiny)
        num_pairs = np.where(scorable, num_positive * num_negative, 1)
        roc_auc = in_order.sum(axis=0) / num_pairs
        average_precision = (positive * precision).sum(axis=0) / np.where(scorable, num_positive, 1)
        return float(roc_auc[scorable].mean()), float(average_precision[scorable].mean())

    def roc_auc(self, weights: np.ndarray | None = None) -> float:
        """The first of `both`."""
        return self.both(weights)[0]
