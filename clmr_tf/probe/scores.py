"""Scores of a probe, with intervals by one bootstrap over songs."""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from clmr_tf import metrics

NUM_RESAMPLINGS = 1000
PERCENTILES = (2.5, 97.5)


class RankedScores:
    """Scores sorted per tag, which makes metrics for many weightings of the examples cheap.

    scikit-learn's functions take about 1 ms per tag and call, which is minutes for 1,000 resamplings.

    Args:
        labels: 0 or 1, [examples, tags].
        scores: Higher for more likely, [examples, tags].
    """

    def __init__(self, labels: np.ndarray, scores: np.ndarray) -> None:
        # From here on, tags are the first axis, so the sums over ranks are contiguous in memory.
        scores = np.ascontiguousarray(scores.T)
        self._order = np.argsort(-scores, axis=1)
        self._positive = np.take_along_axis(np.asarray(labels, np.float64).T, self._order, axis=1)
        ranked = np.take_along_axis(scores, self._order, axis=1)
        # Examples with equal scores form one group; find the first and last rank of each group.
        changes = ranked[:, 1:] != ranked[:, :-1]
        edge = np.ones((len(scores), 1), bool)
        ranks = np.arange(scores.shape[1])
        first = np.maximum.accumulate(np.where(np.concatenate([edge, changes], axis=1), ranks, 0), axis=1)
        lasts = np.where(np.concatenate([changes, edge], axis=1), ranks, len(ranks))
        last = np.minimum.accumulate(lasts[:, ::-1], axis=1)[:, ::-1]
        # Both metrics are sums over positives only, and those are few.
        self._tag, self._rank = np.nonzero(self._positive)
        self._first, self._last = first[self._tag, self._rank], last[self._tag, self._rank]

    def per_tag(self, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """ROC-AUC and average precision of each tag, equal to scikit-learn's on repeated examples.

        Args:
            weights: How often each example counts, whole numbers [examples]; once if None.

        Returns:
            Both [tags], NaN for a tag without positives or without negatives.
        """
        counts = np.ones(self._order.shape) if weights is None else np.asarray(weights, np.float64)[self._order]
        positive = counts * self._positive
        # Number of examples, and of positives, down to each rank.
        total, hits = np.cumsum(counts, axis=1), np.cumsum(positive, axis=1)
        num_positive = hits[:, -1]
        num_negative = total[:, -1] - num_positive
        tag, first, last = self._tag, self._first, self._last
        total_to_last, hits_to_last = total[tag, last], hits[tag, last]
        misses_before = total[tag, first] - counts[tag, first] - hits[tag, first] + positive[tag, first]
        # A negative with the same score counts half.
        in_order = num_negative[tag] - (total_to_last - hits_to_last + misses_before) / 2
        # The maximum avoids 0 / 0 where no example counts yet; those precisions have weight 0.
        precision = hits_to_last / np.maximum(total_to_last, 1)
        weight = positive[tag, self._rank]
        pairs, precisions = (np.bincount(tag, weight * values, minlength=len(hits)) for values in (in_order, precision))
        is_scorable = (num_positive > 0) & (num_negative > 0)
        num_positive, num_negative = (np.where(is_scorable, number, np.nan) for number in (num_positive, num_negative))
        return pairs / num_positive / num_negative, precisions / num_positive

    def macro(self, weights: np.ndarray | None = None) -> tuple[float, float]:
        """Averages of `per_tag` over the tags that are not NaN; NaN if there is none."""
        roc_auc, average_precision = self.per_tag(weights)
        is_scorable = np.isfinite(roc_auc)
        if not is_scorable.any():
            return np.nan, np.nan
        return float(roc_auc[is_scorable].mean()), float(average_precision[is_scorable].mean())


def resampling_weights(group_ids: Sequence[Hashable]) -> np.ndarray:
    """Draws as many groups as there are, with replacement, 1,000 times; always the same draws.

    Fixed draws make the intervals of two encoders comparable. `scipy.stats.bootstrap` draws the same, but its interval
    is NaN if a single resampling cannot be scored.

    Args:
        group_ids: Group of each example, such as its song; examples of one group are drawn together.

    Returns:
        How often each example counts, int32 [1000, examples].
    """
    _, group_of_example = np.unique(np.asarray(group_ids), return_inverse=True)
    num_groups = group_of_example.max() + 1
    draws = np.random.default_rng(0).integers(num_groups, size=(NUM_RESAMPLINGS, num_groups))
    counts = np.stack([np.bincount(draw, minlength=num_groups) for draw in draws]).astype(np.int32)
    return counts[:, group_of_example]


@dataclasses.dataclass(frozen=True)
class Score:
    """A metric with its bootstrap distribution.

    Attributes:
        value: The score on the examples themselves; None if nothing can be scored.
        resampled: The score on each resampling, float64 [resamplings]; NaN where nothing can be scored.
    """

    value: float | None
    resampled: np.ndarray

    @classmethod
    def mean(cls, scores: Sequence["Score"]) -> "Score":
        """The mean of scores on the same resamplings."""
        return cls(
            float(np.mean([score.value for score in scores])), np.mean([score.resampled for score in scores], axis=0)
        )

    def __sub__(self, other: "Score") -> "Score":
        value = None if self.value is None or other.value is None else self.value - other.value
        return Score(value, self.resampled - other.resampled)

    @property
    def interval(self) -> list[float] | None:
        """The 95 % percentile interval over the resamplings that can be scored; None if there is none."""
        scorable = self.resampled[np.isfinite(self.resampled)]
        return [float(bound) for bound in np.percentile(scorable, PERCENTILES)] if len(scorable) else None

    def to_json(self) -> dict[str, Any]:
        """{"mean", "interval"}."""
        return {"mean": self.value, "interval": self.interval}


def main_metric(labels: np.ndarray, scores: np.ndarray, single_label: bool) -> float:
    """Accuracy with single labels, else macro average precision.

    Args:
        labels: Multi-hot, [examples, tags].
        scores: Higher for more likely, [examples, tags].
        single_label: Whether every example has exactly one tag.

    Raises:
        ClmrError: If no tag has both positives and negatives.
    """
    if single_label:
        return metrics.accuracy(labels.argmax(axis=1), scores)
    return metrics.average_precision(labels, scores)[0]


def evaluate_scores(
    labels: np.ndarray,
    scores: np.ndarray,
    song_ids: Sequence[str],
    tag_names: Sequence[str],
    *,
    single_label: bool,
) -> tuple[dict[str, Any], dict[str, Score]]:
    """Compares the scores of clips with their tags.

    "over_tags" is the macro average over the tags that have both positives and negatives. "over_clips" ranks the tags
    of each clip, as the thesis does, and averages over the clips that have at least one tag but not all. The values are
    scikit-learn's. Intervals are the 2.5 and 97.5 percentiles over resamplings of songs with all their clips, since
    clips of one song are not independent.

    Args:
        labels: Multi-hot, [clips, tags].
        scores: Higher for more likely, [clips, tags].
        song_ids: Song of each clip.
        tag_names: Names of the columns.
        single_label: Whether every clip has exactly one tag; the accuracy is reported as well then.

    Returns:
        JSON data: {"num_songs", "num_clips", "tags_without_positives", "tags_without_negatives",
        "roc_auc" and "average_precision": {"over_tags": {"mean", "interval"}, "over_clips": {"mean", "interval",
        "num_clips"}, "per_tag": {tag: value or None}}, "accuracy": {"mean", "interval"}}. A mean is None where
        nothing can be scored. And "roc_auc" and "average_precision" over tags, and "accuracy", with their bootstrap
        distributions.
    """
    labels = np.asarray(labels)
    weights = resampling_weights(song_ids)
    has_positives, has_negatives = labels.any(axis=0), ~labels.all(axis=0)
    result: dict[str, Any] = {
        "num_songs": len(set(song_ids)),
        "num_clips": len(labels),
        "tags_without_positives": [name for name, has in zip(tag_names, has_positives, strict=True) if not has],
        "tags_without_negatives": [name for name, has in zip(tag_names, has_negatives, strict=True) if not has],
    }
    resampled = _macro_resampled(labels, scores, weights)
    # With thousands of clips, one call of scikit-learn for each would take seconds.
    per_clip = RankedScores(labels.T, scores.T).per_tag()
    is_scorable = (has_positives & has_negatives).any()
    metric_of = {"roc_auc": metrics.roc_auc, "average_precision": metrics.average_precision}
    distributions: dict[str, Score] = {}
    for index, (name, metric) in enumerate(metric_of.items()):
        value, per_tag = metric(labels, scores) if is_scorable else (None, np.full(len(tag_names), np.nan))
        over_clips = _mean_over_clips(per_clip[index], weights).to_json()
        distributions[name] = Score(value, resampled[index])
        result[name] = {
            "over_tags": distributions[name].to_json(),
            "over_clips": {**over_clips, "num_clips": int(np.isfinite(per_clip[index]).sum())},
            "per_tag": {
                tag: float(one) if np.isfinite(one) else None for tag, one in zip(tag_names, per_tag, strict=True)
            },
        }
    if single_label:
        distributions["accuracy"] = _accuracy(labels, scores, weights)
        result["accuracy"] = distributions["accuracy"].to_json()
    return result, distributions


NUM_NEIGHBOURS = 10
_MIN_NORM = 1e-12


def neighbour_precision(embeddings: np.ndarray, classes: np.ndarray, song_ids: Sequence[str]) -> Score:
    """Precision at 10: how many of the ten clips that are most similar to a clip have its class, as a fraction.

    Similar as in `python -m clmr_tf.similar`: by the cosine of mean embeddings. Other clips of the same song do not
    count. If fewer than ten clips have the class of a clip, only that many neighbours are counted, so that 1 can be
    reached; a clip that is the only one of its class is left out.

    Args:
        embeddings: The mean embedding of each clip, float [clips, dimensions].
        classes: The class of each clip, int [clips].
        song_ids: Song of each clip.

    Returns:
        The mean over the clips, with its distribution over resamplings of songs; the neighbours stay the same.
    """
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), _MIN_NORM)
    _, songs = np.unique(np.asarray(song_ids), return_inverse=True)
    is_other_song = songs[:, None] != songs
    is_right = (classes[:, None] == classes) & is_other_song
    order = np.argsort(np.where(is_other_song, -(unit @ unit.T), np.inf), axis=1, kind="stable")
    num_counted = np.minimum(NUM_NEIGHBOURS, is_right.sum(axis=1))
    is_counted = np.arange(len(classes)) < num_counted[:, None]
    num_found = (np.take_along_axis(is_right, order, axis=1) & is_counted).sum(axis=1)
    precision = np.divide(num_found, num_counted, out=np.full(len(classes), np.nan), where=num_counted > 0)
    return _mean_over_clips(precision, resampling_weights(song_ids))


def _macro_resampled(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Macro ROC-AUC and average precision of each resampling, float64 [2, resamplings]."""
    ranked = RankedScores(labels, scores)
    return np.array([ranked.macro(row) for row in weights]).T


def _accuracy(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> Score:
    is_correct = scores.argmax(axis=1) == labels.argmax(axis=1)
    return _mean_over_clips(is_correct.astype(np.float64), weights)


def _mean_over_clips(values: np.ndarray, weights: np.ndarray) -> Score:
    """The mean of one value per clip; clips whose value is NaN are left out."""
    has_value = np.isfinite(values)
    if not has_value.any():
        return Score(None, np.full(len(weights), np.nan))
    weights, values = weights[:, has_value], values[has_value]
    totals = weights.sum(axis=1)
    resampled = np.divide(weights @ values, totals, out=np.full(len(weights), np.nan), where=totals > 0)
    return Score(float(values.mean()), resampled)
