"""Weighted ranks against scikit-learn on examples that are repeated."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from clmr_tf.probe.scores import RankedScores


def scored(num_examples: int, num_levels: int | None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = (generator.uniform(size=(num_examples, 4)) < 0.3).astype(np.float32)
    scores = labels + generator.standard_normal(labels.shape)
    return labels, scores if num_levels is None else np.round(scores * num_levels / 4)


@pytest.mark.parametrize("num_levels", [None, 8, 2], ids=["no ties", "ties", "almost all tied"])
def test_equals_scikit_learn_with_and_without_repetitions(num_levels):
    labels, scores = scored(150, num_levels)
    counts = np.random.default_rng(1).poisson(1.0, len(labels))
    for weights, rows in ((None, np.arange(150)), (counts, np.repeat(np.arange(150), counts))):
        roc_auc, average_precision = RankedScores(labels, scores).both(weights)
        assert roc_auc == pytest.approx(roc_auc_score(labels[rows], scores[rows], average="macro"), abs=1e-12)
        expected = average_precision_score(labels[rows], scores[rows], average="macro")
        assert average_precision == pytest.approx(expected, abs=1e-12)


def test_tags_without_positives_or_negatives_of_any_weight_are_left_out():
    labels, scores = scored(60, None)
    weights = np.ones(60)
    weights[labels[:, 0] == 1] = 0
    weights[labels[:, 1] == 0] = 0
    rows = weights == 1
    expected = roc_auc_score(labels[rows][:, 2:], scores[rows][:, 2:], average="macro")
    assert RankedScores(labels, scores).roc_auc(weights) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(RankedScores(labels[:, :1], scores[:, :1]).both(weights)).all()
