"""What a result says of scores: metrics per tag, over tags and per clip, with intervals over songs."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from clmr_tf import metrics
from clmr_tf.evaluation.ranks import RankedScores

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
