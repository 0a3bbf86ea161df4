"""Scores against scikit-learn, and their intervals against scipy and a bootstrap by plain repetition."""

import json

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, average_precision_score, roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity

from clmr_tf.errors import ClmrError
from clmr_tf.probe import scores as scores_module
from clmr_tf.probe.scores import (
    PERCENTILES,
    RankedScores,
    Score,
    evaluate_scores,
    main_metric,
    neighbour_precision,
    resampling_weights,
)

TAGS = ("guitar", "piano", "drums", "voice", "harp")
METRICS = {"roc_auc": roc_auc_score, "average_precision": average_precision_score}


def one_hot(classes, num_classes: int = 4) -> np.ndarray:
    return np.eye(num_classes, dtype=np.float32)[np.asarray(classes)]


def scored(num_examples: int, num_levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Labels of four tags, and noisy scores; with few levels, many of them are tied."""
    generator = np.random.default_rng(0)
    labels = (generator.uniform(size=(num_examples, 4)) < 0.3).astype(np.float32)
    scores = labels + generator.standard_normal(labels.shape)
    return labels, scores if num_levels is None else np.round(scores * num_levels / 4)


@pytest.fixture
def tagged():
    """40 clips of 15 songs; no clip has a harp."""
    generator = np.random.default_rng(0)
    labels = (generator.uniform(size=(40, 5)) < 0.4).astype(np.float32)
    labels[:, 4] = 0
    songs = [f"song {number}" for number in generator.integers(15, size=40)]
    return labels, labels + generator.standard_normal(labels.shape), songs


@pytest.mark.parametrize("num_levels", [None, 8, 2], ids=["no ties", "ties", "almost all tied"])
def test_weighted_ranks_equal_scikit_learn_on_repeated_examples(num_levels):
    labels, scores = scored(150, num_levels)
    counts = np.random.default_rng(1).poisson(1.0, len(labels))
    for weights, rows in ((None, np.arange(150)), (counts, np.repeat(np.arange(150), counts))):
        expected = [metric(labels[rows], scores[rows], average="macro") for metric in METRICS.values()]
        assert RankedScores(labels, scores).macro(weights) == pytest.approx(expected, abs=1e-12)


def test_tags_whose_positives_or_negatives_have_no_weight_are_left_out():
    labels, scores = scored(60)
    weights = np.ones(60)
    weights[labels[:, 0] == 1] = 0
    weights[labels[:, 1] == 0] = 0
    rows = weights == 1
    expected = roc_auc_score(labels[rows][:, 2:], scores[rows][:, 2:], average="macro")
    assert RankedScores(labels, scores).macro(weights)[0] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(RankedScores(labels[:, :1], scores[:, :1]).macro(weights)).all()


def test_scores_over_tags_and_over_clips_equal_scikit_learn(tagged):
    labels, scores, songs = tagged
    result, _ = evaluate_scores(labels, scores, songs, TAGS, single_label=False)
    rows = (labels.sum(axis=1) > 0) & (labels.sum(axis=1) < 5)
    for name, metric in METRICS.items():
        expected = metric(labels[:, :4], scores[:, :4], average=None)
        assert list(result[name]["per_tag"].values())[:4] == pytest.approx(expected, abs=1e-12)
        assert result[name]["per_tag"]["harp"] is None
        assert result[name]["over_tags"]["mean"] == pytest.approx(expected.mean(), abs=1e-12)
        expected = metric(labels[rows], scores[rows], average="samples")
        assert result[name]["over_clips"]["mean"] == pytest.approx(expected, abs=1e-12)
        assert result[name]["over_clips"]["num_clips"] == rows.sum() < 40
    assert result["tags_without_positives"] == ["harp"] and result["tags_without_negatives"] == []
    assert (result["num_clips"], result["num_songs"]) == (40, len(set(songs)))
    assert "accuracy" not in result
    json.loads(json.dumps(result, allow_nan=False))


def test_intervals_equal_a_bootstrap_that_repeats_the_clips_of_songs(tagged, monkeypatch):
    monkeypatch.setattr(scores_module, "NUM_RESAMPLINGS", 40)
    labels, scores, songs = tagged
    result, _ = evaluate_scores(labels, scores, songs, TAGS, single_label=False)
    names = sorted(set(songs))
    clips_of = {name: [clip for clip, song in enumerate(songs) if song == name] for name in names}
    generator = np.random.default_rng(0)
    expected = {(name, over): [] for name in METRICS for over in ("over_tags", "over_clips")}
    for _ in range(40):
        drawn = generator.integers(len(names), size=len(names))
        rows = [clip for number in drawn for clip in clips_of[names[number]]]
        mixed = [row for row in rows if 0 < labels[row].sum() < 5]
        columns = [tag for tag in range(5) if 0 < labels[rows, tag].sum() < len(rows)]
        for name, metric in METRICS.items():
            over_tags = metric(labels[rows][:, columns], scores[rows][:, columns], average="macro")
            expected[name, "over_tags"].append(over_tags)
            expected[name, "over_clips"].append(metric(labels[mixed], scores[mixed], average="samples"))
    for (name, over), values in expected.items():
        np.testing.assert_allclose(result[name][over]["interval"], np.percentile(values, [2.5, 97.5]), atol=1e-10)


def accuracy_score_of(labels: np.ndarray, scores: np.ndarray) -> Score:
    """The accuracy of clips of as many songs, with its bootstrap distribution."""
    songs, tag_names = [f"{clip:03d}" for clip in range(len(labels))], [str(tag) for tag in range(labels.shape[1])]
    return evaluate_scores(labels, scores, songs, tag_names, single_label=True)[1]["accuracy"]


def test_the_interval_of_a_mean_is_that_of_scipy():
    is_right = np.random.default_rng(3).uniform(size=60) < 0.7
    scores = one_hot(np.where(is_right, 0, 1))
    interval = accuracy_score_of(one_hot([0] * 60), scores).interval
    expected = stats.bootstrap(
        (is_right.astype(float),), np.mean, n_resamples=1000, method="percentile", random_state=np.random.default_rng(0)
    ).confidence_interval
    assert interval == pytest.approx([expected.low, expected.high], abs=1e-12)
    assert PERCENTILES == (2.5, 97.5)


def test_clips_of_a_song_are_resampled_together():
    weights = resampling_weights(["a", "b", "a", "c"])
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()
    # Twice as many clips of the same songs carry no more information about other songs.
    labels = np.eye(2)[np.arange(40) % 2]
    scores = labels + np.random.default_rng(1).standard_normal((40, 2))
    songs = [str(clip) for clip in range(40)]
    once, _ = evaluate_scores(labels, scores, songs, "ab", single_label=True)
    twice, _ = evaluate_scores(np.tile(labels, (2, 1)), np.tile(scores, (2, 1)), songs * 2, "ab", single_label=True)
    assert once["accuracy"] == twice["accuracy"]
    expected = once["roc_auc"]["over_tags"]["interval"]
    assert twice["roc_auc"]["over_tags"]["interval"] == pytest.approx(expected, abs=1e-12)


def test_single_labels_have_an_accuracy(tagged):
    _, scores, songs = tagged
    classes = np.random.default_rng(2).integers(5, size=40)
    result, _ = evaluate_scores(np.eye(5)[classes], scores, songs, TAGS, single_label=True)
    expected = accuracy_score(classes, scores.argmax(axis=1))
    assert result["accuracy"]["mean"] == pytest.approx(expected, abs=1e-12)
    assert main_metric(np.eye(5)[classes], scores, True) == pytest.approx(expected, abs=1e-12)
    assert result["accuracy"]["interval"][0] < expected < result["accuracy"]["interval"][1]


def test_where_nothing_can_be_scored_there_is_no_number():
    nothing = np.zeros((3, 2))
    result, _ = evaluate_scores(nothing, nothing, ["a", "b", "c"], "xy", single_label=False)
    assert result["roc_auc"]["over_tags"] == {"mean": None, "interval": None}
    assert result["roc_auc"]["over_clips"] == {"mean": None, "interval": None, "num_clips": 0}
    assert result["tags_without_positives"] == ["x", "y"]
    with pytest.raises(ClmrError, match="No tag has both"):
        main_metric(nothing, nothing, False)


def test_the_main_metric_of_several_tags_is_macro_average_precision():
    labels, scores = scored(60)
    expected = average_precision_score(labels, scores, average="macro")
    assert main_metric(labels, scores, False) == pytest.approx(expected, abs=1e-12)
    assert abs(expected - average_precision_score(labels, scores, average="micro")) > 1e-3


def test_resamplings_that_cannot_be_scored_are_left_out():
    """Half of all resamplings of two recordings contain one of them twice."""
    labels, right = np.array([[1.0], [0.0]]), np.array([[0.9], [0.1]])
    one, other = (
        evaluate_scores(labels, scores, ["x", "y"], ["tag"], single_label=False)[1]["average_precision"]
        for scores in (right, 1 - right)
    )
    assert 400 < np.isnan(one.resampled).sum() < 600
    assert one.interval == [1.0, 1.0] and (one - other).interval == [0.5, 0.5]
    # The mean over encoders is a mean of scores, not the score of a mean.
    assert Score.mean([one, other]).interval == [0.75, 0.75]


@pytest.fixture
def accuracy_of():
    """Scores of 40 recordings of class 0 for which the first `num_right` predictions are correct, or the last."""
    labels = one_hot([0] * 40)

    def score(num_right: int, first: bool = True) -> Score:
        classes = [0] * num_right + [1] * (40 - num_right)
        return accuracy_score_of(labels, one_hot(classes if first else classes[::-1]))

    return score


def test_the_interval_of_an_accuracy_is_binomial(accuracy_of):
    score = accuracy_of(20)
    assert score.value == 0.5
    expected = stats.binom.ppf([0.025, 0.975], 40, 0.5) / 40
    np.testing.assert_allclose(score.interval, expected, atol=1.01 / 40)
    # Two encoders that are correct on the same recordings are as uncertain as one.
    assert Score.mean([score, accuracy_of(20)]).interval == score.interval


def test_differences_are_taken_within_each_resampling(accuracy_of):
    difference = accuracy_of(22) - accuracy_of(20)
    assert difference.value == pytest.approx(0.05, abs=1e-12)
    low, high = difference.interval
    # The first is correct wherever the second is, so it is never worse.
    assert low >= 0 and high <= stats.binom.ppf(0.99, 40, 0.05) / 40
    same = accuracy_of(20) - accuracy_of(20)
    assert (same.value, same.interval) == (0.0, [0.0, 0.0])
    # Where one is wrong the other is correct, so their mean is 0.5 on any recordings.
    assert Score.mean([accuracy_of(20), accuracy_of(20, first=False)]).interval == [0.5, 0.5]


def test_neighbour_precision_equals_counting_by_hand():
    generator = np.random.default_rng(3)
    # The last class has one song, whose two clips have no other song to find.
    classes = np.array([0] * 25 + [1] * 6 + [2] * 4 + [3] * 2)
    songs = [f"song {number}" for number in [*range(20), *[20] * 5, *range(21, 31), 31, 31]]
    embeddings = np.eye(4)[classes] + generator.standard_normal((37, 4))
    cosines = cosine_similarity(embeddings)
    precisions = []
    for clip in range(35):
        others = [other for other in range(37) if songs[other] != songs[clip]]
        nearest = sorted(others, key=lambda other: -cosines[clip, other])
        num_counted = min(10, sum(classes[other] == classes[clip] for other in others))
        precisions.append(np.mean([classes[other] == classes[clip] for other in nearest[:num_counted]]))
    score = neighbour_precision(embeddings, classes, songs)
    assert score.value == pytest.approx(np.mean(precisions)) and 0.3 < score.value < 0.9
    weights = resampling_weights(songs)[:, :35]
    expected = np.average(np.tile(precisions, (len(weights), 1)), axis=1, weights=weights)
    np.testing.assert_allclose(score.resampled, expected)
    # Classes that are directions are found without a mistake.
    assert neighbour_precision(np.eye(4)[classes], classes, songs).value == 1
