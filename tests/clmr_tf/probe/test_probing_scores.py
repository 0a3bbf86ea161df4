"""Scores, their intervals and differences, on labels and scores whose answers are known."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score

from clmr_tf.probe.quick import difference_of, interval_of, measure


def one_hot(classes, num_classes: int = 4) -> np.ndarray:
    return np.eye(num_classes, dtype=np.float32)[np.asarray(classes)]


def noisy_tags(num_recordings: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = (generator.uniform(size=(num_recordings, 2)) < 0.4).astype(np.float32)
    return labels, labels + generator.standard_normal(labels.shape)


def test_one_label_each_is_measured_by_accuracy():
    scores = np.array([[0.9, 0.1, 0, 0], [0.2, 0.8, 0, 0], [0.3, 0.3, 0.4, 0], [0.6, 0.2, 0.1, 0.1]])
    assert measure(one_hot([0, 1, 2, 3]), scores, True) == 0.75
    assert measure(one_hot([3, 3, 3, 0]), scores, True) == 0.25


def test_several_tags_are_measured_by_macro_average_precision():
    labels, scores = noisy_tags(60)
    expected = average_precision_score(labels, scores, average="macro")
    assert measure(labels, scores, False) == pytest.approx(expected, abs=1e-12)
    assert abs(expected - average_precision_score(labels, scores, average="micro")) > 1e-3
    never = np.concatenate([labels, np.zeros((60, 1))], axis=1)
    assert measure(never, np.concatenate([scores, scores[:, :1]], axis=1), False) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("num_right", "num_recordings"), [(0, 5), (8, 10), (10, 10), (151, 203)])
def test_the_interval_of_an_accuracy_is_that_of_wilson(num_right, num_recordings):
    labels = one_hot([0] * num_recordings)
    scores = one_hot([0] * num_right + [1] * (num_recordings - num_right))
    expected = stats.binomtest(num_right, num_recordings).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(interval_of(labels, [scores], True), (expected.low, expected.high), atol=1e-4)


def test_the_interval_of_average_precision_is_that_of_another_resampling():
    widths = []
    for num_recordings in (30, 270):
        labels, scores = noisy_tags(num_recordings)
        low, high = interval_of(labels, [scores], False)
        assert low < measure(labels, scores, False) < high
        generator = np.random.default_rng(99)
        resampled = []
        for _ in range(1000):
            rows = generator.choice(num_recordings, num_recordings)
            # Average precision by its definition: the mean, over the positives, of the precision down to each.
            order = [rows[np.argsort(-scores[rows, tag], kind="stable")] for tag in range(2)]
            hits = [labels[order[tag], tag] for tag in range(2)]
            precision = [np.cumsum(hit) / np.arange(1, num_recordings + 1) for hit in hits]
            resampled.append(np.mean([np.mean(precision[tag][hits[tag] == 1]) for tag in range(2)]))
        np.testing.assert_allclose((low, high), np.quantile(resampled, [0.025, 0.975]), atol=0.03)
        widths.append(high - low)
    # Nine times the recordings: a third of the width, roughly.
    assert 0.2 < widths[1] / widths[0] < 0.5


def test_resamplings_that_cannot_be_scored_are_left_out():
    """Of two recordings, half of all resamplings are one of them twice."""
    labels = np.array([[1.0], [0.0]])
    assert interval_of(labels, [np.array([[0.9], [0.1]])], False) == (1.0, 1.0)
    assert difference_of(labels, np.array([[0.9], [0.1]]), [np.array([[0.1], [0.9]])], False) == {
        "score": 0.5,
        "interval": (0.5, 0.5),
    }


def test_identical_scores_differ_by_exactly_nothing():
    labels, scores = (array[:, :1] for array in noisy_tags(20))
    nothing = {"score": 0.0, "interval": (0.0, 0.0)}
    assert difference_of(labels, scores, [scores.copy()], False) == nothing
    classes = one_hot([0, 1, 2, 3, 1])
    mixed = one_hot([0, 1, 0, 0, 1])
    assert difference_of(classes, mixed, [mixed.copy()], True) == nothing


def test_a_known_difference_is_found_with_its_sign_and_interval():
    """All right against a quarter right: 1 - 0.25, where resampling is a binomial draw."""
    num_recordings = 40
    labels = one_hot(np.arange(num_recordings) % 4)
    always_the_first = one_hot([0] * num_recordings)
    better = difference_of(labels, labels, [always_the_first], True)
    assert better["score"] == 0.75
    many, few = stats.binom.ppf([0.975, 0.025], num_recordings, 0.25) / num_recordings
    np.testing.assert_allclose(better["interval"], (1 - many, 1 - few), atol=1.01 / num_recordings)
    worse = difference_of(labels, always_the_first, [labels], True)
    assert worse["score"] == -0.75
    np.testing.assert_allclose(worse["interval"], (-better["interval"][1], -better["interval"][0]), atol=1e-12)


def test_both_are_resampled_by_the_same_recordings():
    """Where one is right wherever the other is, and in two of 40 recordings more, it is never worse."""
    labels = one_hot([0] * 40)
    baseline = one_hot([0] * 20 + [1] * 20)
    scores = one_hot([0] * 22 + [1] * 18)
    difference = difference_of(labels, scores, [baseline], True)
    assert difference["score"] == pytest.approx(0.05, abs=1e-12)
    low, high = difference["interval"]
    assert low >= 0 and high <= stats.binom.ppf(0.99, 40, 0.05) / 40


def test_the_mean_of_encoders_that_are_right_together_is_as_uncertain_as_one():
    """Of 40 recordings, both are right on the same 20: a resampling is a binomial draw."""
    labels = one_hot([0] * 40)
    scores = one_hot([0] * 20 + [1] * 20)
    low, high = interval_of(labels, [scores, scores.copy()], True)
    expected = stats.binom.ppf([0.025, 0.975], 40, 0.5) / 40
    np.testing.assert_allclose((low, high), expected, atol=1.01 / 40)


def test_the_mean_of_encoders_that_are_right_in_turn_is_certain():
    """Wherever one of two is wrong the other is right, so the mean is a half of whatever recordings."""
    labels = one_hot([0] * 40)
    scores = [one_hot([0] * 20 + [1] * 20), one_hot([1] * 20 + [0] * 20)]
    assert interval_of(labels, scores, True) == (0.5, 0.5)
    assert difference_of(labels, labels, scores, True) == {"score": 0.5, "interval": (0.5, 0.5)}
    # In average precision, too, the mean is over scores of the encoders and not the score of their mean.
    labels, right = np.array([[1.0], [0.0]]), np.array([[0.9], [0.1]])
    assert interval_of(labels, [right, 1 - right], False) == (0.75, 0.75)
