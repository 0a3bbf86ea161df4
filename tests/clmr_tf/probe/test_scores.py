"""A result's scores against scikit-learn, and its intervals against a bootstrap that repeats the clips of songs."""

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, roc_auc_score

from clmr_tf.probe.scores import evaluate_scores, song_weights

TAGS = ("guitar", "piano", "drums", "voice", "harp")
METRICS = {"roc_auc": roc_auc_score, "average_precision": average_precision_score}


@pytest.fixture
def tagged():
    """40 clips of 15 songs; no clip has a harp."""
    generator = np.random.default_rng(0)
    labels = (generator.uniform(size=(40, 5)) < 0.4).astype(np.float32)
    labels[:, 4] = 0
    songs = [f"song {number}" for number in generator.integers(15, size=40)]
    return labels, labels + generator.standard_normal(labels.shape), songs


def test_equals_scikit_learn_over_tags_and_over_clips(tagged):
    labels, scores, songs = tagged
    result = evaluate_scores(labels, scores, songs, TAGS, single_label=False, num_resamplings=20)
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


def test_intervals_are_those_of_a_slow_bootstrap_over_songs(tagged):
    labels, scores, songs = tagged
    result = evaluate_scores(labels, scores, songs, TAGS, single_label=False, num_resamplings=40)
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


def test_clips_of_a_song_are_resampled_together():
    weights = song_weights(["a", "b", "a", "c"], 500)
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()
    # Twice as many clips in the same songs say no more about other songs.
    labels = np.eye(2)[np.arange(40) % 2]
    scores = labels + np.random.default_rng(1).standard_normal((40, 2))
    songs = [str(clip) for clip in range(40)]
    once = evaluate_scores(labels, scores, songs, "ab", single_label=True)
    twice = evaluate_scores(np.tile(labels, (2, 1)), np.tile(scores, (2, 1)), songs * 2, "ab", single_label=True)
    assert once["accuracy"] == twice["accuracy"]
    expected = once["roc_auc"]["over_tags"]["interval"]
    assert twice["roc_auc"]["over_tags"]["interval"] == pytest.approx(expected, abs=1e-12)


def test_single_labels_have_an_accuracy(tagged):
    _, scores, songs = tagged
    classes = np.random.default_rng(2).integers(5, size=40)
    result = evaluate_scores(np.eye(5)[classes], scores, songs, TAGS, single_label=True, num_resamplings=100)
    expected = accuracy_score(classes, scores.argmax(axis=1))
    assert result["accuracy"]["mean"] == pytest.approx(expected, abs=1e-12)
    assert result["accuracy"]["interval"][0] < expected < result["accuracy"]["interval"][1]


def test_where_nothing_can_be_scored_there_is_no_number():
    result = evaluate_scores(
        np.zeros((3, 2)), np.zeros((3, 2)), ["a", "b", "c"], "xy", single_label=False, num_resamplings=5
    )
    assert result["roc_auc"]["over_tags"] == {"mean": None, "interval": None}
    assert result["roc_auc"]["over_clips"] == {"mean": None, "interval": None, "num_clips": 0}
    assert result["tags_without_positives"] == ["x", "y"]
