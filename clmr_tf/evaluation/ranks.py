"""ROC-AUC and average precision of many resamplings of the same scores, which are sorted only once."""

import numpy as np


class RankedScores:
    """Scores sorted per tag, to be weighed by how often each example counts.

    Args:
        labels: 0 or 1, [examples, tags].
        scores: Higher for more likely, [examples, tags].
    """

    def __init__(self, labels: np.ndarray, scores: np.ndarray) -> None:
        # Tags first from here on, so that sums over ranks run through memory.
        scores = np.ascontiguousarray(scores.T)
        self._order = np.argsort(-scores, axis=1)
        self._positive = np.take_along_axis(np.asarray(labels, np.float64).T, self._order, axis=1)
        ranked = np.take_along_axis(scores, self._order, axis=1)
        # Examples of one score are taken together: from which rank, to which.
        changes = ranked[:, 1:] != ranked[:, :-1]
        edge = np.ones((len(scores), 1), bool)
        ranks = np.arange(scores.shape[1])
        first = np.maximum.accumulate(np.where(np.concatenate([edge, changes], axis=1), ranks, 0), axis=1)
        lasts = np.where(np.concatenate([changes, edge], axis=1), ranks, len(ranks))
        last = np.minimum.accumulate(lasts[:, ::-1], axis=1)[:, ::-1]
        # All that is asked for is asked at positives, which are few.
        self._tag, self._rank = np.nonzero(self._positive)
        self._first, self._last = first[self._tag, self._rank], last[self._tag, self._rank]

    def per_tag(self, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """ROC-AUC and average precision of each tag, as scikit-learn gives them for examples that are repeated.

        Args:
            weights: How often each example counts, whole numbers [examples]; once if None.

        Returns:
            Both [tags], NaN for a tag that has no positives or no negatives of any weight.
        """
        counts = np.ones(self._order.shape) if weights is None else np.asarray(weights, np.float64)[self._order]
        positive = counts * self._positive
        # How many examples, and how many positives, down to each rank.
        total, hits = np.cumsum(counts, axis=1), np.cumsum(positive, axis=1)
        num_positive = hits[:, -1]
        num_negative = total[:, -1] - num_positive
        tag, first, last = self._tag, self._first, self._last
        total_to_last, hits_to_last = total[tag, last], hits[tag, last]
        misses_before = total[tag, first] - counts[tag, first] - hits[tag, first] + positive[tag, first]
        # A negative of the same score counts half.
        in_order = num_negative[tag] - (total_to_last - hits_to_last + misses_before) / 2
        # Where nothing counts yet, the precision has no weight, either; weights are whole numbers.
        precision = hits_to_last / np.maximum(total_to_last, 1)
        weight = positive[tag, self._rank]
        pairs, precisions = (np.bincount(tag, weight * values, minlength=len(hits)) for values in (in_order, precision))
        is_scorable = (num_positive > 0) & (num_negative > 0)
        num_positive, num_negative = (np.where(is_scorable, number, np.nan) for number in (num_positive, num_negative))
        return pairs / num_positive / num_negative, precisions / num_positive

    def both(self, weights: np.ndarray | None = None) -> tuple[float, float]:
        """The averages of `per_tag` over the tags that are not NaN; NaN if there is none."""
        roc_auc, average_precision = self.per_tag(weights)
        is_scorable = np.isfinite(roc_auc)
        if not is_scorable.any():
            return np.nan, np.nan
        return float(roc_auc[is_scorable].mean()), float(average_precision[is_scorable].mean())

    def roc_auc(self, weights: np.ndarray | None = None) -> float:
        """The first of `both`."""
        return self.both(weights)[0]
