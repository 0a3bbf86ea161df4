"""Metrics compared with scikit-learn's averages and with hand calculations."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from clmr_tf import metrics
from clmr_tf.errors import ClmrError


@pytest.fixture
def scored():
    generator = np.random.default_rng(0)
    labels = (generator.uniform(size=(200, 6)) < 0.3).astype(int)
    return labels, labels + generator.standard_normal((200, 6))


def test_scores_equal_scikit_learn_per_tag_and_on_average(scored):
    labels, scores = scored
    for ours, theirs in ((metrics.roc_auc, roc_auc_score), (metrics.average_precision, average_precision_score)):
        average, per_tag = ours(labels, scores)
        assert average == pytest.approx(theirs(labels, scores, average="macro"), abs=1e-12)
        np.testing.assert_allclose(per_tag, theirs(labels, scores, average=None), atol=1e-12)


def test_scores_equal_hand_calculation():
    labels, scores = np.array([[1], [0], [1], [0]]), np.array([[0.9], [0.8], [0.7], [0.1]])
    # Three of the four pairs of a positive and a negative are ranked correctly.
    assert metrics.roc_auc(labels, scores)[0] == pytest.approx(3 / 4)
    assert metrics.average_precision(labels, scores)[0] == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_tags_with_one_class_are_excluded_from_the_average(scored):
    labels, scores = scored
    labels[:, 2], labels[:, 4] = 0, 1
    average, per_tag = metrics.roc_auc(labels, scores)
    assert np.isnan(per_tag[[2, 4]]).all()
    assert average == pytest.approx(np.nanmean(per_tag))


def test_invalid_input_is_rejected(scored):
    labels, scores = scored
    with pytest.raises(ClmrError, match="No tag"):
        metrics.roc_auc(np.zeros_like(labels), scores)
    with pytest.raises(ClmrError, match=r"\(200, 5\)"):
        metrics.average_precision(labels[:, :5], scores)
    scores[3, 1] = np.nan
    with pytest.raises(ClmrError, match="1 of 1200"):
        metrics.roc_auc(labels, scores)


def test_accuracy_uses_the_highest_score():
    scores = np.array([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6]])
    assert metrics.accuracy(np.array([1, 0, 0]), scores) == pytest.approx(2 / 3)
