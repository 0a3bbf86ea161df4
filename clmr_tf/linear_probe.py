"""A linear classifier on frozen embeddings: how much of what the tags say can be read off them."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from clmr_tf.metrics import accuracy, average_precision

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclasses.dataclass(frozen=True)
class Windows:
    """Embeddings of the windows of one split.

    Attributes:
        vectors: float32 [windows, dimensions].
        item: Row of the item that a window belongs to, int [windows].
        labels: Multi-hot tags of the items, [items, tags].
    """

    vectors: np.ndarray
    item: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """What a probe says of a split.

    Attributes:
        window_scores: Probabilities, [windows, tags].
        item_scores: Averages over the windows of each item, [items, tags].
        inverse_penalty: The one chosen on the validation split; None where nothing was fitted.
    """

    window_scores: np.ndarray
    item_scores: np.ndarray
    inverse_penalty: float | None = None

    @classmethod
    def from_windows(
        cls, window_scores: np.ndarray, windows: Windows, inverse_penalty: float | None = None
    ) -> "ProbeResult":
        """Averages the scores of windows by item."""
        sums = np.zeros((len(windows.labels), window_scores.shape[1]))
        np.add.at(sums, windows.item, window_scores)
        counts = np.bincount(windows.item, minlength=len(windows.labels))
        return cls(window_scores, sums / counts[:, None], inverse_penalty)


def fit_linear_probe(train: Windows, valid: Windows, test: Windows, single_label: bool) -> ProbeResult:
    """Fits logistic regression on the windows of `train`, with the L2 penalty that is best on `valid`.

    Features are standardised with the statistics of `train`. The optimum is unique, so the result depends on no
    seed.

    Args:
        train: What the classifier learns from.
        valid: What chooses its penalty.
        test: What is scored.
        single_label: One multinomial classifier, judged on `valid` by accuracy; otherwise a binary classifier per
            tag, judged by average precision.

    Returns:
        The result on `test`.
    """
    # As in clmr_tf.metrics.
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    best: tuple[float, float, Pipeline] | None = None
    for inverse_penalty in INVERSE_PENALTIES:
        classifier = LogisticRegression(C=inverse_penalty, max_iter=2000)
        model = make_pipeline(StandardScaler(), classifier if single_label else OneVsRestClassifier(classifier))
        window_labels = train.labels[train.item]
        model.fit(train.vectors, window_labels.argmax(axis=1) if single_label else window_labels)
        item_scores = ProbeResult.from_windows(_window_scores(model, valid), valid).item_scores
        if single_label:
            score = accuracy(valid.labels.argmax(axis=1), item_scores)
        else:
            score, _ = average_precision(valid.labels, item_scores)
        # On a tie the stronger penalty stays.
        if best is None or score > best[0]:
            best = score, inverse_penalty, model
    _, inverse_penalty, model = best
    return ProbeResult.from_windows(_window_scores(model, test), test, inverse_penalty)


def _window_scores(model: "Pipeline", windows: Windows) -> np.ndarray:
    scores = np.zeros((len(windows.vectors), windows.labels.shape[1]))
    # A class without training windows is unknown to the classifier and keeps the score 0.
    scores[:, model[-1].classes_] = model.predict_proba(windows.vectors)
    return scores
