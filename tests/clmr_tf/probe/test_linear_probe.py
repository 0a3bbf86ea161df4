"""The probe on features whose best classifier is known."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from clmr_tf.metrics import accuracy, average_precision
from clmr_tf.probe.quick import INVERSE_PENALTIES, ProbeResult, Windows, fit_linear_probe

SINGLE = True


def make_windows(seed: int, labels: np.ndarray, directions: np.ndarray, noise: float, per_item: int = 5) -> Windows:
    generator = np.random.default_rng(seed)
    item = np.repeat(np.arange(len(labels)), per_item)
    vectors = labels[item] @ directions + noise * generator.standard_normal((len(item), directions.shape[1]))
    return Windows((100 * vectors + 7).astype(np.float32), item, labels)


@pytest.fixture
def directions():
    return np.random.default_rng(9).standard_normal((4, 16))


def one_hot(count: int) -> np.ndarray:
    return np.eye(4, dtype=np.float32)[np.arange(count) % 4]


def test_finds_classes_that_are_linearly_separable(directions):
    splits = [make_windows(seed, one_hot(40), directions, 0.1) for seed in range(3)]
    result = fit_linear_probe(*splits, SINGLE)
    assert accuracy(splits[2].labels.argmax(axis=1), result.item_scores) == 1.0
    np.testing.assert_allclose(result.item_scores.sum(axis=1), 1.0, atol=1e-6)


def test_averaging_windows_beats_single_windows_where_they_are_noisy(directions):
    train, valid = (make_windows(seed, one_hot(80), directions, 4.0) for seed in (0, 1))
    many, one = (make_windows(2, one_hot(400), directions, 4.0, per_item=n) for n in (9, 1))
    right = one.labels.argmax(axis=1)
    by_one = accuracy(right, fit_linear_probe(train, valid, one, SINGLE).item_scores)
    by_nine = accuracy(right, fit_linear_probe(train, valid, many, SINGLE).item_scores)
    assert 0.3 < by_one < by_nine - 0.1


def test_features_without_information_give_chance(directions):
    splits = [make_windows(seed, one_hot(120), 0 * directions, 1.0) for seed in range(3)]
    score = accuracy(splits[2].labels.argmax(axis=1), fit_linear_probe(*splits, SINGLE).item_scores)
    # 0.25 within 4 standard errors of 120 recordings.
    assert abs(score - 0.25) < 0.16


def test_several_tags_per_item_get_a_classifier_each(directions):
    generator = np.random.default_rng(3)
    splits = [
        make_windows(seed, (generator.uniform(size=(60, 4)) < 0.4).astype(np.float32), directions, 0.2)
        for seed in range(3)
    ]
    result = fit_linear_probe(*splits, single_label=False)
    assert average_precision(splits[2].labels, result.item_scores)[0] > 0.99


def test_a_class_without_training_items_gets_the_score_0(directions):
    train = make_windows(0, one_hot(40)[np.arange(40) % 4 != 2], directions, 0.1)
    valid, test = (make_windows(seed, one_hot(40), directions, 0.1) for seed in (1, 2))
    scores = fit_linear_probe(train, valid, test, SINGLE).item_scores
    assert (scores[:, 2] == 0).all()
    assert accuracy(test.labels.argmax(axis=1), scores) == 0.75


def test_the_penalty_is_that_which_is_best_on_the_validation_split(directions):
    """Tried one by one: the choice gives valid's best score, whatever would be best on the others."""
    wide = np.concatenate([directions, np.zeros((4, 200))], axis=1)
    chosen = set()
    # With mostly one class to learn from, a strong penalty leaves only the guess of that class.
    uneven = np.eye(4, dtype=np.float32)[[0] * 40 + [1, 2, 3] * 4]
    for noise, train_labels in ((3.0, one_hot(24)), (0.5, uneven)):
        train = make_windows(0, train_labels, wide, noise, per_item=2)
        valid, test = (make_windows(seed, one_hot(24), wide, noise, per_item=2) for seed in (1, 2))
        right = valid.labels.argmax(axis=1)
        scores = {}
        for penalty in INVERSE_PENALTIES:
            classifier = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=2000))
            classifier.fit(train.vectors, train.labels[train.item].argmax(axis=1))
            by_window = classifier.predict_proba(valid.vectors)
            scores[penalty] = accuracy(right, ProbeResult.from_windows(by_window, valid).item_scores)
        best = min(penalty for penalty, score in scores.items() if score == max(scores.values()))
        for other in (test, train):
            result = fit_linear_probe(train, valid, other, SINGLE)
            assert result.inverse_penalty == best
        chosen.add(best)
        assert len(set(scores.values())) > 1, "the penalties cannot be told apart on this data"
    assert max(chosen) > min(INVERSE_PENALTIES)


def test_item_scores_are_the_averages_of_their_windows():
    windows = Windows(np.zeros((4, 1), np.float32), np.array([0, 1, 1, 0]), np.eye(2))
    result = ProbeResult.from_windows(np.array([[0.2, 0.8], [1.0, 0.0], [0.5, 0.5], [0.4, 0.6]]), windows)
    np.testing.assert_allclose(result.item_scores, [[0.3, 0.7], [0.75, 0.25]])
