"""The preset standard: its logistic regression, and differences between results on the same resampled songs."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from clmr_tf.data.corpus import Corpus
from clmr_tf.data.labels import choose_labels
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.export.writing import read_probe_head
from clmr_tf.models.encoders import build_encoder
from clmr_tf.models.heads import probabilities
from clmr_tf.models.sample_cnn import SampleCNN
from clmr_tf.probe import __main__ as command
from clmr_tf.probe.during_training import build_probe
from clmr_tf.probe.evaluation import main_scores
from clmr_tf.probe.heads import fit_logistic_head
from clmr_tf.probe.protocols import L2_STRENGTHS, LogisticSettings
from tests.clmr_tf.probed import CLIP
from tests.synthetic import PCM_FILE

SEED = 42
HEADS = [LogisticSettings(l2=l2) for l2 in L2_STRENGTHS]


def features_of(seed: int, labels: np.ndarray, noise: float = 2.0) -> np.ndarray:
    """Noisy features of another scale in each dimension, [examples, 6]."""
    directions = np.random.default_rng(0).standard_normal((labels.shape[1], 6))
    vectors = labels @ directions + noise * np.random.default_rng(seed).standard_normal((len(labels), 6))
    return (vectors * [1, 10, 0.1, 1, 1, 3] + [5, 0, 0, -100, 0, 1]).astype(np.float32)


def labels_of(num_examples: int, single_label: bool) -> np.ndarray:
    generator = np.random.default_rng(1)
    if single_label:
        return np.eye(4, dtype=np.float32)[generator.integers(4, size=num_examples)]
    return (generator.uniform(size=(num_examples, 4)) < 0.3).astype(np.float32)


def probabilities_of_scikit_learn(
    features: np.ndarray, labels: np.ndarray, others: np.ndarray, l2: float, single_label: bool
) -> np.ndarray:
    """Of `others`, by one multinomial classifier or one for each tag; C is the inverse of l2 times the examples."""
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation[deviation == 0] = 1
    inputs, asked = (features - mean) / deviation, (others - mean) / deviation
    classifier = LogisticRegression(C=1 / (l2 * len(features)), tol=1e-10, max_iter=10_000)
    if single_label:
        return classifier.fit(inputs, labels.argmax(axis=1)).predict_proba(asked)
    columns = [classifier.fit(inputs, column).predict_proba(asked)[:, 1] for column in labels.T]
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("single_label", [True, False])
def test_every_strength_has_the_optimum_of_scikit_learn(single_label):
    labels = labels_of(150, single_label)
    features, valid = features_of(2, labels), features_of(3, labels)
    losses = []
    for settings in HEADS:
        fit, chosen, (record,) = fit_logistic_head(
            features, labels, valid, labels, [settings], single_label=single_label
        )
        expected = probabilities_of_scikit_learn(features, labels, valid, settings.l2, single_label)
        received = probabilities(fit.head.logits(valid).astype(np.float64), single_label)
        np.testing.assert_allclose(received, expected, atol=2e-3)
        right = expected * labels if single_label else np.where(labels == 1, expected, 1 - expected)
        losses.append(-np.log(right.sum(axis=1)).mean() if single_label else -np.log(right).mean())
        assert chosen == settings and record["valid"] == pytest.approx(losses[-1], abs=1e-3)

    # All of them, each from the optimum of the one before: the best on the validation examples is taken.
    fit, chosen, records = fit_logistic_head(features, labels, valid, labels, HEADS, single_label=single_label)
    # Weaker penalties than the one after the best are left out.
    num_fitted = min(len(HEADS), int(np.argmin(losses)) + 2)
    assert [record["valid"] for record in records] == pytest.approx(losses[:num_fitted], abs=1e-3)
    assert chosen.l2 == L2_STRENGTHS[int(np.argmin(losses))] not in (L2_STRENGTHS[0], L2_STRENGTHS[-1])
    assert fit.best_value == min(record["valid"] for record in records)
    assert fit.head.logits(valid).shape == labels.shape


def test_a_tag_without_positives_stays_unlikely_and_the_others_do_not_notice():
    labels = labels_of(150, single_label=False)
    features = features_of(2, labels)
    with_empty = np.concatenate([labels, np.zeros((150, 1), np.float32)], axis=1)
    one, other = (
        fit_logistic_head(features, tags, features, tags, HEADS[2:3], single_label=False)[0].head.logits(features)
        for tags in (labels, with_empty)
    )
    np.testing.assert_allclose(other[:, :4], one, atol=5e-3)
    assert (other[:, 4] < np.log(1 / 150)).all() and np.isfinite(other).all()
    with pytest.raises(ClmrError, match="Features contain NaN or infinity"):
        fit_logistic_head(features, labels, features * np.inf, labels, HEADS[:1], single_label=False)


@pytest.fixture(scope="module")
def probed(model_folder, corpus, cache, tmp_path_factory):
    """Returns a function that runs the command and returns the file that it wrote, and what it wrote."""
    folder = tmp_path_factory.mktemp("results")

    def run(name: str, *options) -> tuple[Path, dict]:
        places = ["--model", model_folder, "--corpus", corpus.folder, "--features-cache", cache]
        out = folder / f"{name}.json"
        command.main([str(option) for option in (*places, "--out", out, *options)])
        return out, json.loads(out.read_text(encoding="utf-8"))

    return run


def windows_of(model: SampleCNN, corpus: Corpus, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of all whole windows from the bytes of the PCM file, and the clip of each."""
    pcm = np.fromfile(corpus.folder / PCM_FILE, "<i2").astype(np.float32) / 32768
    windows, clips = [], []
    for clip, item in enumerate(corpus.items_of(split)):
        for start in range(0, item.num_samples - CLIP + 1, CLIP):
            windows.append(pcm[item.offset_samples + start :][:CLIP])
            clips.append(clip)
    return model(np.stack(windows), training=False).numpy(), np.array(clips)


def scores_by_hand(model: SampleCNN, corpus: Corpus, l2: float) -> np.ndarray:
    """Probabilities of the classes of the test clips: [clips, classes].

    Two optima that differ by rounding can rank two nearly equal clips in different orders, so the head is compared with
    scikit-learn's here, and the ranks are taken from the head.
    """
    train, clips = windows_of(model, corpus, "train")
    valid, valid_clips = windows_of(model, corpus, "valid")
    test, test_clips = windows_of(model, corpus, "test")
    labels, valid_labels = (
        corpus.multi_hot(corpus.rows_of(split))[rows] for split, rows in (("train", clips), ("valid", valid_clips))
    )
    fit, chosen, _ = fit_logistic_head(train, labels, valid, valid_labels, HEADS, single_label=True)
    assert chosen.l2 == l2
    by_window = probabilities(fit.head.logits(test).astype(np.float64), single_label=True)
    expected = probabilities_of_scikit_learn(train, labels, test, l2, single_label=True)
    np.testing.assert_allclose(by_window, expected, atol=2e-3)
    return np.stack([by_window[test_clips == clip].mean(axis=0) for clip in range(test_clips.max() + 1)])


def test_scores_and_the_difference_from_untrained_weights_equal_a_slow_repetition(probed, corpus, model, capsys):
    out, result = probed("trained")
    assert result["preset"] == "standard" and result["single_label"]
    settings = result["protocol"]["head"]
    runs = result["fit"]["runs"]
    assert [run["settings"]["l2"] for run in runs] == list(L2_STRENGTHS)[: len(runs)]
    assert settings == min(runs, key=lambda run: run["valid"])["settings"]
    # All windows: the first item of the test split has one, and the others have two.
    assert result["scores"]["test"]["num_windows"] == 1 + 9 * 2
    assert result["scores"]["test"]["num_clips_of_one_window"] == 0

    untrained = build_encoder(width=0.0625, seed=SEED)
    labels = corpus.multi_hot(corpus.rows_of("test"))
    _, of_untrained = probed("untrained", "--features", "untrained")
    scores = [
        scores_by_hand(model, corpus, settings["l2"]),
        scores_by_hand(untrained, corpus, of_untrained["protocol"]["head"]["l2"]),
    ]
    songs = sorted(item.song_id for item in corpus.items_of("test"))
    order = [[item.song_id for item in corpus.items_of("test")].index(song) for song in songs]

    def measure(rows: list[int], scored: np.ndarray) -> tuple[float, float]:
        accuracy = (scored[rows].argmax(axis=1) == labels[rows].argmax(axis=1)).mean()
        tags = [tag for tag in range(3) if 0 < labels[rows, tag].sum() < len(rows)]
        return accuracy, average_precision_score(labels[rows][:, tags], scored[rows][:, tags], average="macro")

    generator, drawn = np.random.default_rng(0), []
    for _ in range(1000):
        rows = [order[number] for number in generator.integers(10, size=10)]
        drawn.append(np.subtract(*(measure(rows, scored) for scored in scores)))
    value = np.subtract(*(measure(list(range(10)), scored) for scored in scores))
    (entry,) = result["differences"]
    assert entry["minus"]["features"]["kind"] == "untrained" and entry["minus"]["features"]["seed"] == SEED
    for column, metric in enumerate(("accuracy", "average_precision")):
        assert entry["scores"][metric]["mean"] == pytest.approx(value[column], abs=1e-6)
        expected = np.percentile([row[column] for row in drawn], [2.5, 97.5])
        np.testing.assert_allclose(entry["scores"][metric]["interval"], expected, atol=1e-6)
    low, high = entry["scores"]["accuracy"]["interval"]
    assert f"Minus untrained features, accuracy: {value[0]:+.3f} (95 %: {low:+.3f} to {high:+.3f})" in (
        capsys.readouterr().out.replace("\n", " ")
    )
    # The model card also shows how many of the most similar recordings are of the same class.
    recorded = main_scores(result)
    assert recorded[""]["mean"] == result["scores"]["test"]["accuracy"]["mean"]
    neighbours, minus = recorded["-similar"], recorded["-similar"]["differences"]["untrained"]
    assert neighbours["mean"] == result["scores"]["test"]["neighbour_precision"]["mean"]
    assert minus["mean"] == entry["scores"]["neighbour_precision"]["mean"]
    # The head can become part of the model, as that of every other preset.
    exported = read_probe_head(out, model)
    assert exported.head.num_outputs == 3 and exported.origin["preset"] == "standard"
    assert "paired" not in exported.origin


def test_two_results_are_compared_in_either_direction(probed, corpus):
    out, result = probed("trained")
    mel_file, mel = probed("mel", "--features", "mel", "--compare", out)
    (entry,) = mel["differences"]
    assert entry["minus"]["file"] == str(out) and entry["minus"]["features"] == result["features"]
    _, again = probed("again", "--compare", mel_file, out)
    _, backward, same = again["differences"]
    for metric in ("accuracy", "roc_auc", "average_precision"):
        there, back = entry["scores"][metric], backward["scores"][metric]
        assert there["mean"] == pytest.approx(-back["mean"], abs=1e-9)
        assert there["interval"] == pytest.approx([-bound for bound in back["interval"][::-1]], abs=1e-6)
        assert there["minuend"] == back["subtrahend"]
        assert (same["scores"][metric]["mean"], same["scores"][metric]["interval"]) == (0.0, [0.0, 0.0])
    # The same file apart from that.
    assert {**again, "differences": result["differences"]} == result


@pytest.mark.soak
def test_results_that_cannot_be_compared_are_refused_in_one_sentence(probed, tmp_path):
    out, result = probed("trained")
    _, released = probed("released", "--preset", "released")
    assert "paired" not in released and "differences" not in released
    written = {
        "released": released,
        "older": {name: entry for name, entry in result.items() if name != "paired"},
        "list": [],
        "uneven": {**result, "paired": {"examples": "", "scores": {"accuracy": {"value": 0, "resampled": "much"}}}},
    }
    for (name, plain), words in zip(
        written.items(),
        (
            "it was made with the preset released",
            "it has no entry 'paired'",
            "list indices must be",
            "could not convert",
        ),
        strict=True,
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(plain))
        with pytest.raises(UsageError, match=rf"^--compare .*{name}\.json cannot be subtracted .*{words}"):
            probed("refused", "--compare", tmp_path / f"{name}.json")
    with pytest.raises(UsageError, match=r"--compare nowhere\.json cannot be subtracted .*No such file"):
        probed("refused", "--compare", "nowhere.json")
    # Another task has other labels and another split.
    with pytest.raises(UsageError, match="is for the corpus songs, and this result for the corpus songs, task halv"):
        probed("refused", "--task", "halves", "--compare", out)


def test_few_labels_and_several_tags_are_scored_too(probed):
    _, result = probed("few", "--task", "several", "--labels", "0.2")
    assert not result["single_label"] and result["labels"]["num_songs"] == 3
    assert set(result["differences"][0]["scores"]) == {"roc_auc", "average_precision"}
    assert result["differences"][0]["minus"]["labels"] == result["labels"]
    assert dataclasses.asdict(LogisticSettings(l2=result["protocol"]["head"]["l2"])) == result["protocol"]["head"]


def test_other_songs_with_labels_are_drawn_and_nothing_else_changes(probed, corpus):
    options = ("--task", "several", "--labels", "0.2", "--features", "untrained")
    _, result = probed("drawn", *options, "--labels-seed", "7")
    labelled = corpus.for_task("several")
    _, drawn = choose_labels(labelled, np.arange(len(labelled.items_of("train"))), song_fraction=0.2, seed=7)
    names = ("num_clips", "tags_without_positives")
    assert {name: result["labels"][name] for name in names} == {name: drawn[name] for name in names}
    _, default = probed("default", *options)
    assert (result["labels_seed"], result["seed"]) == (7, SEED) and "labels_seed" not in default
    assert result["features"] == default["features"] and result["scores"] != default["scores"]
    _, same = probed("same", *options, "--labels-seed", SEED)
    assert same["scores"] == default["scores"]


def test_without_baselines_only_the_model_is_scored(probed):
    _, result = probed("trained")
    _, alone = probed("alone", "--no-baselines")
    assert alone == {**result, "differences": []}


def test_weak_penalties_are_left_out_after_a_worse_one():
    """The features say nothing about the labels, so the strongest penalty is the best."""
    generator = np.random.default_rng(4)
    features, valid = generator.standard_normal((2, 60, 6)).astype(np.float32)
    labels, valid_labels = (generator.uniform(size=(2, 60, 3)) < 0.5).astype(np.float32)
    progress: list[tuple[int, int]] = []
    fit, chosen, records = fit_logistic_head(
        *(features, labels, valid, valid_labels, HEADS),
        single_label=False,
        on_fit=lambda done, total: progress.append((done, total)),
    )
    assert chosen.l2 == 10 and [record["settings"]["l2"] for record in records] == [10, 1]
    assert fit.best_value == records[0]["valid"] < records[1]["valid"]
    assert progress == [(1, 7), (7, 7)]


def test_the_probe_during_training_scores_the_same_head_on_the_validation_split(model, corpus, probed):
    calls = []
    scores = build_probe(model, corpus)(lambda: calls.append(1))
    _, result = probed("trained")
    assert scores == {"probe/score": pytest.approx(result["scores"]["valid"]["accuracy"]["mean"], abs=1e-12)}
    # Each clip and each penalty, of which those after a worse one are left out.
    assert len(calls) == 14 + 6 + len(result["fit"]["runs"])
