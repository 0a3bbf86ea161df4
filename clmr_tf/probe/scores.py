"""Scores of probes with their intervals."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from clmr_tf import metrics


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


NUM_RESAMPLINGS = 1000
PERCENTILES = (2.5, 97.5)


def evaluate_scores(
    labels: np.ndarray,
    scores: np.ndarray,
    song_ids: Sequence[str],
    tag_names: Sequence[str],
    *,
    single_label: bool,
    num_resamplings: int = NUM_RESAMPLINGS,
) -> dict[str, Any]:
    """Scores of clips against their tags, as JSON data.

    "over tags" is the macro average over the tags that have positives and negatives here; "over clips" takes the
    row of each clip as the thesis does, averaged over the clips that have a tag and lack one. The values are
    scikit-learn's. Intervals are the 2.5 and 97.5 percentiles of resamplings of the songs, each with all of its
    clips, since clips of one song are no independent examples.

    Args:
        labels: Multi-hot, [clips, tags].
        scores: Higher for more likely, [clips, tags].
        song_ids: Of the clips.
        tag_names: Of the columns.
        single_label: Every clip has one label; then the accuracy is given, too.
        num_resamplings: For the intervals.

    Returns:
        {"num_songs", "num_clips", "tags_without_positives", "tags_without_negatives",
        "roc_auc" and "average_precision": {"over_tags": {"mean", "interval"}, "over_clips": {"mean", "interval",
        "num_clips"}, "per_tag": {tag: value or None}}, "accuracy": {"mean", "interval"}}. A mean is None where
        nothing can be scored.
    """
    labels = np.asarray(labels)
    weights = song_weights(song_ids, num_resamplings)
    ranked = RankedScores(labels, scores)
    resampled = np.array([ranked.both(row) for row in weights])
    is_scorable_clip = (labels.max(axis=1) == 1) & (labels.min(axis=1) == 0)
    result: dict[str, Any] = {
        "num_songs": len(set(song_ids)),
        "num_clips": len(labels),
        "tags_without_positives": [name for name, column in zip(tag_names, labels.T, strict=True) if not column.any()],
        "tags_without_negatives": [name for name, column in zip(tag_names, labels.T, strict=True) if column.all()],
    }
    # Of the ranks as well, since scikit-learn's call costs 1.5 ms for each of thousands of clips.
    of_clips = RankedScores(labels.T, scores.T).per_tag()
    of_tags = metrics.roc_auc, metrics.average_precision
    for column, (name, metric) in enumerate(zip(("roc_auc", "average_precision"), of_tags, strict=True)):
        mean, per_tag = _scored(metric, labels, scores)
        per_clip = of_clips[column]
        result[name] = {
            "over_tags": {"mean": mean, "interval": interval_of(resampled[:, column])},
            "over_clips": {**_mean_over_clips(per_clip, weights), "num_clips": int(is_scorable_clip.sum())},
            "per_tag": {tag: _number(value) for tag, value in zip(tag_names, per_tag, strict=True)},
        }
    if single_label:
        is_right = (scores.argmax(axis=1) == labels.argmax(axis=1)).astype(np.float64)
        result["accuracy"] = _mean_over_clips(is_right, weights)
    return result


def song_weights(song_ids: Sequence[str], num_resamplings: int) -> np.ndarray:
    """How often each clip counts in resamplings of as many songs as there are, with replacement.

    Returns:
        int32 [num_resamplings, clips]; clips of one song count equally often.
    """
    _, song_of_clip = np.unique(np.asarray(song_ids), return_inverse=True)
    num_songs = song_of_clip.max() + 1
    # The same resamplings for every encoder, so that their differences have less noise than they.
    draws = np.random.default_rng(0).integers(num_songs, size=(num_resamplings, num_songs))
    counts = np.stack([np.bincount(draw, minlength=num_songs) for draw in draws]).astype(np.int32)
    return counts[:, song_of_clip]


def interval_of(resampled: np.ndarray) -> list[float] | None:
    """The 95 % interval; resamplings in which nothing could be scored (NaN) are left out."""
    resampled = resampled[np.isfinite(resampled)]
    return [float(value) for value in np.percentile(resampled, PERCENTILES)] if len(resampled) else None


def _scored(metric: Callable, labels: np.ndarray, scores: np.ndarray) -> tuple[float | None, np.ndarray]:
    """As `metric`, but None and NaN instead of an error where no column can be scored."""
    is_scorable = (labels.max(axis=0) == 1) & (labels.min(axis=0) == 0)
    return metric(labels, scores) if is_scorable.any() else (None, np.full(labels.shape[1], np.nan))


def _mean_over_clips(values: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """The mean of one value per clip, NaN where a clip has none, and its interval."""
    has_value = np.isfinite(values)
    if not has_value.any():
        return {"mean": None, "interval": None}
    weights, values = weights[:, has_value], values[has_value]
    totals = weights.sum(axis=1)
    resampled = np.divide(weights @ values, totals, out=np.full(len(weights), np.nan), where=totals > 0)
    return {"mean": float(values.mean()), "interval": interval_of(resampled)}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
