"""Metrics as the paper reports them: scikit-learn's, per tag and averaged over the tags that can be scored.

scikit-learn takes most of a second to import, so the functions import it when they are called.
"""

from collections.abc import Callable

import numpy as np

from clmr_tf.errors import ClmrError


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray]:
    """Area under the ROC curve.

    Args:
        labels: 0 or 1, [examples, tags].
        scores: Any real numbers, higher for more likely, [examples, tags].

    Returns:
        The average over tags that have positives and negatives, and the values per tag [tags], NaN for others.

    Raises:
        ClmrError: If the shapes differ, scores are not finite, or no tag has positives and negatives.
    """
    from sklearn.metrics import roc_auc_score

    return _per_tag(roc_auc_score, labels, scores)


def average_precision(labels: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray]:
    """Average precision, which the paper calls PR-AUC; arguments, results and errors as for `roc_auc`."""
    from sklearn.metrics import average_precision_score

    return _per_tag(average_precision_score, labels, scores)


def accuracy(classes: np.ndarray, scores: np.ndarray) -> float:
    """Fraction of examples whose class, int [examples], has the highest of the scores [examples, classes]."""
    return float(np.mean(np.argmax(scores, axis=1) == classes))


def _per_tag(
    score: Callable[[np.ndarray, np.ndarray], float], labels: np.ndarray, scores: np.ndarray
) -> tuple[float, np.ndarray]:
    labels, scores = np.asarray(labels), np.asarray(scores)
    if labels.shape != scores.shape or labels.ndim != 2:
        raise ClmrError(f"Labels and scores must both be [examples, tags]; received {labels.shape} and {scores.shape}.")
    if not np.isfinite(scores).all():
        raise ClmrError(f"Scores must be finite; {np.sum(~np.isfinite(scores))} of {scores.size} are not.")
    scorable = (labels.min(axis=0) == 0) & (labels.max(axis=0) == 1) if len(labels) else np.zeros(labels.shape[1], bool)
    if not scorable.any():
        raise ClmrError("No tag has both positive and negative examples, so there is nothing to score.")
    values = np.full(labels.shape[1], np.nan)
    for tag in np.flatnonzero(scorable):
        values[tag] = score(labels[:, tag], scores[:, tag])
    return float(np.mean(values[scorable])), values
