"""The quick probe: logistic regression on features whose best classifier is known, and a whole result."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from clmr_tf.config.command_line import to_json
from clmr_tf.config.train import TrainConfig
from clmr_tf.data.corpus import Corpus
from clmr_tf.errors import UsageError
from clmr_tf.metrics import accuracy, average_precision
from clmr_tf.models.encoders import build_encoder
from clmr_tf.models.sample_cnn import SampleCNN
from clmr_tf.probe.evaluation import probe_model
from clmr_tf.probe.features import LabeledFeatures
from clmr_tf.probe.quick import INVERSE_PENALTIES, build_probe, fit_linear_probe, wilson_interval
from clmr_tf.probe.settings import ProbeConfig
from tests.clmr_tf.probed import CLIP, TAGS
from tests.synthetic import PCM_FILE, changed_corpus, synthetic_corpus

SEED = 7
# Item k is as long as two clips minus (6 - k) samples, so the first six have one window and the others two.
NUM_SAMPLES = 2 * CLIP - 6
NUM_ITEMS = 20
# The tags follow the registers of the songs, except in test. Among the windows of train "brass" is the most frequent
# (4 of 8), among its recordings "keys" (3 of 6).
SINGLE_LABEL = {
    "train": {0: "keys", 2: "keys", 5: "keys", 3: "strings", 6: "brass", 11: "brass"},
    "valid": {1: "brass", 7: "keys", 8: "strings", 10: "keys"},
    "test": {
        **dict.fromkeys((4, 9, 14, 16), "brass"),
        **dict.fromkeys((12, 15, 17), "keys"),
        **dict.fromkeys((13, 18, 19), "strings"),
    },
}
NUM_WINDOWS = {"train": 4 * 1 + 2 * 2, "valid": 1 + 3 * 2, "test": 1 + 9 * 2}
SETS = ((), ("brass",), ("keys", "brass"), ("strings",), ("strings", "keys"))
SEVERAL_LABELS = {
    split: {number: SETS[number % 5] for number in numbers}
    for split, numbers in {"train": range(0, 8), "valid": range(8, 13), "test": range(13, 20)}.items()
}


def make_features(
    seed: int, labels: np.ndarray, directions: np.ndarray, noise: float, per_clip: int = 5
) -> LabeledFeatures:
    generator = np.random.default_rng(seed)
    clip = np.repeat(np.arange(len(labels)), per_clip)
    vectors = labels[clip] @ directions + noise * generator.standard_normal((len(clip), directions.shape[1]))
    return LabeledFeatures((100 * vectors + 7).astype(np.float32), clip, labels, np.zeros(len(labels), np.int64))


def scores_of(train: LabeledFeatures, valid: LabeledFeatures, test: LabeledFeatures, single_label=True) -> np.ndarray:
    return test.mean_by_clip(fit_linear_probe(train, valid, single_label).window_scores(test))


def accuracy_of(splits: list[LabeledFeatures]) -> float:
    return accuracy(splits[2].labels.argmax(axis=1), scores_of(*splits))


@pytest.fixture
def directions():
    return np.random.default_rng(9).standard_normal((4, 16))


def one_hot(count: int) -> np.ndarray:
    return np.eye(4, dtype=np.float32)[np.arange(count) % 4]


def test_classes_that_are_linearly_separable_are_found(directions):
    splits = [make_features(seed, one_hot(40), directions, 0.1) for seed in range(3)]
    assert accuracy_of(splits) == 1.0
    np.testing.assert_allclose(scores_of(*splits).sum(axis=1), 1.0, atol=1e-6)


def test_averaging_windows_beats_single_windows_where_they_are_noisy(directions):
    train, valid = (make_features(seed, one_hot(80), directions, 4.0) for seed in (0, 1))
    nine, one = (make_features(2, one_hot(400), directions, 4.0, per_clip=n) for n in (9, 1))
    assert 0.3 < accuracy_of([train, valid, one]) < accuracy_of([train, valid, nine]) - 0.1


def test_features_without_information_give_chance(directions):
    # 0.25 within 4 standard errors of 120 recordings.
    assert abs(accuracy_of([make_features(seed, one_hot(120), 0 * directions, 1.0) for seed in range(3)]) - 0.25) < 0.16


def test_several_tags_per_clip_get_a_classifier_each(directions):
    generator = np.random.default_rng(3)
    splits = [
        make_features(seed, (generator.uniform(size=(60, 4)) < 0.4).astype(np.float32), directions, 0.2)
        for seed in range(3)
    ]
    assert average_precision(splits[2].labels, scores_of(*splits, single_label=False))[0] > 0.99


def test_a_class_without_training_clips_gets_the_score_0(directions):
    train = make_features(0, one_hot(40)[np.arange(40) % 4 != 2], directions, 0.1)
    valid, test = (make_features(seed, one_hot(40), directions, 0.1) for seed in (1, 2))
    assert (scores_of(train, valid, test)[:, 2] == 0).all()
    assert accuracy_of([train, valid, test]) == 0.75


def test_the_penalty_that_is_best_on_the_validation_split_is_chosen(directions):
    """Against scikit-learn, one penalty after the other."""
    wide = np.concatenate([directions, np.zeros((4, 200))], axis=1)
    chosen = set()
    # Trained mostly on one class, a strong penalty leaves only the guess of that class.
    uneven = np.eye(4, dtype=np.float32)[[0] * 40 + [1, 2, 3] * 4]
    for noise, train_labels in ((3.0, one_hot(24)), (0.5, uneven)):
        train = make_features(0, train_labels, wide, noise, per_clip=2)
        valid = make_features(1, one_hot(24), wide, noise, per_clip=2)
        expected = {}
        for penalty in INVERSE_PENALTIES:
            classifier = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=2000))
            classifier.fit(train.vectors, train.row_labels.argmax(axis=1))
            by_clip = classifier.predict_proba(valid.vectors).reshape(24, 2, 4).mean(axis=1)
            expected[penalty] = accuracy(valid.labels.argmax(axis=1), by_clip)
        best = min(penalty for penalty, score in expected.items() if score == max(expected.values()))
        assert fit_linear_probe(train, valid, True).inverse_penalty == best
        chosen.add(best)
        assert len(set(expected.values())) > 1, "the penalties cannot be told apart on this data"
    assert max(chosen) > min(INVERSE_PENALTIES)


@pytest.mark.parametrize(("num_correct", "num_examples"), [(0, 5), (8, 10), (10, 10), (81, 263), (151, 203)])
def test_wilson_s_interval_equals_its_formula(num_correct, num_examples):
    expected = stats.binomtest(num_correct, num_examples).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(wilson_interval(num_correct, num_examples), (expected.low, expected.high), atol=1e-5)
    p, z = num_correct / num_examples, 1.96
    root = np.sqrt(p * (1 - p) / num_examples + z**2 / (4 * num_examples**2))
    by_formula = (p + z**2 / (2 * num_examples) + np.array([-z, z]) * root) / (1 + z**2 / num_examples)
    np.testing.assert_allclose(wilson_interval(num_correct, num_examples), by_formula, atol=1e-12)


def relabel(corpus: Corpus, tags_of: dict[str, dict[int, tuple[str, ...]]]) -> Corpus:
    """Writes index and manifest of `corpus` again, with splits and tags by the number of the item."""
    items = list(corpus.items)
    for split, tags in tags_of.items():
        for number, names in tags.items():
            items[number] = dataclasses.replace(items[number], split=split, tags=names)
    return changed_corpus(corpus, corpus.folder, items, tag_names=TAGS)


def embed_by_hand(model: SampleCNN, corpus: Corpus, split: str) -> LabeledFeatures:
    """Computed from the bytes of the PCM file with the model alone."""
    pcm = np.fromfile(corpus.folder / PCM_FILE, "<i2").astype(np.float32) / 32768
    windows, rows, labels = [], [], []
    items = [item for item in corpus.items if item.split == split]
    for row, item in enumerate(items):
        samples = pcm[item.offset_samples :][: item.num_samples]
        num_windows = 1 if int(item.id.removeprefix("item-")) < 6 else 2
        windows += [samples[window * CLIP : (window + 1) * CLIP] for window in range(num_windows)]
        rows += [row] * num_windows
        labels.append([float(name in item.tags) for name in TAGS])
    vectors = model(np.stack(windows), training=False).numpy()
    return LabeledFeatures(vectors, np.array(rows), np.array(labels, np.float32), np.zeros(len(items)))


@pytest.fixture(scope="module")
def encoders(model):
    """The trained encoder and the three untrained ones."""
    return [model, *(build_encoder(width=0.0625, seed=seed) for seed in (SEED, SEED + 1, SEED + 2))]


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpora") / "songs"
    return synthetic_corpus(folder, num_songs={"train": NUM_ITEMS}, num_samples=NUM_SAMPLES, tag_names=TAGS)


def result_of(model_folder: Path, corpus: Corpus) -> dict:
    result, head = probe_model(ProbeConfig(model_folder, str(corpus.folder), seed=SEED, preset="quick"))
    assert head is None
    return result


def check_rows(result: dict, corpus: Corpus, encoders: list[SampleCNN], single_label: bool) -> None:
    """Compares the rows of the trained and the untrained encoders with probes fitted here."""
    assert [row["features"] for row in result["rows"]] == ["trained encoder", "untrained encoder", "majority guess"]
    trained, untrained, _ = result["rows"]
    by_seed = untrained["by_seed"]
    assert [one["seed"] for one in by_seed] == [SEED, SEED + 1, SEED + 2]
    for name in ("score", "clip_score"):
        assert untrained[name] == pytest.approx(np.mean([one[name] for one in by_seed]), abs=1e-12)
    difference = result["trained_minus_untrained"]
    assert difference["score"] == pytest.approx(trained["score"] - untrained["score"], abs=1e-12)
    for row in (trained, untrained, difference):
        assert row["interval"][0] <= row["score"] <= row["interval"][1]
    for row, model in zip([trained, *by_seed], encoders, strict=True):
        train, valid, test = (embed_by_hand(model, corpus, split) for split in ("train", "valid", "test"))
        probe = fit_linear_probe(train, valid, single_label)
        assert row["inverse_penalty"] == probe.inverse_penalty
        window_scores = probe.window_scores(test)
        for name, labels, scores in (
            ("score", test.labels, test.mean_by_clip(window_scores)),
            ("clip_score", test.row_labels, window_scores),
        ):
            right = (scores.argmax(axis=1) == labels.argmax(axis=1)).mean()
            by_hand = right if single_label else average_precision_score(labels, scores, average="macro")
            assert row[name] == pytest.approx(by_hand, abs=1e-6), name
    distinct = {(row["score"], row["clip_score"]) for row in [trained, *by_seed]}
    assert len(distinct) >= 3, "the encoders cannot be told apart on this corpus"


def test_single_labels_are_scored_by_accuracy(model_folder, songs, encoders):
    tags_of = {split: {number: (tag,) for number, tag in tags.items()} for split, tags in SINGLE_LABEL.items()}
    corpus = relabel(songs, tags_of)
    result = result_of(model_folder, corpus)
    assert result["metric"] == "accuracy"
    assert result["corpus"] == {
        "name": "songs",
        "fingerprint": corpus.manifest.fingerprint,
        "tag_names": list(TAGS),
    }
    assert result["splits"] == {
        split: {"num_recordings": len(tags), "num_clips": NUM_WINDOWS[split]} for split, tags in SINGLE_LABEL.items()
    }
    assert (result["model"], result["training_step"], result["seed"]) == (str(model_folder), 3, SEED)
    check_rows(result, corpus, encoders, single_label=True)
    majority = result["rows"][2]
    # "brass": 4 of the 10 test recordings, and 1 + 3 x 2 of their 19 windows.
    assert (majority["score"], majority["clip_score"]) == pytest.approx((0.4, 7 / 19), abs=1e-12)
    assert majority["interval"] == wilson_interval(4, 10)

    # During training, the same classifier is scored on the valid split.
    valid = embed_by_hand(encoders[0], corpus, "valid")
    scores = scores_of(embed_by_hand(encoders[0], corpus, "train"), valid, valid)
    calls = []
    during_training = build_probe(encoders[0], corpus)(lambda: calls.append(1))
    assert during_training == {"probe/score": accuracy(valid.labels.argmax(axis=1), scores)}
    assert len(calls) == 6 + 4 + len(INVERSE_PENALTIES)


@pytest.mark.soak
def test_recordings_with_no_or_two_tags_are_scored_by_average_precision(model_folder, songs, encoders):
    corpus = relabel(songs, SEVERAL_LABELS)
    result = result_of(model_folder, corpus)
    assert result["metric"] == "macro average precision"
    assert result["splits"]["test"] == {"num_recordings": 7, "num_clips": 14}
    check_rows(result, corpus, encoders, single_label=False)
    # Constant scores have the tag's frequency as their average precision. Of 13 to 19: brass 2, keys 3, strings 4.
    assert result["rows"][2]["score"] == pytest.approx((2 / 7 + 3 / 7 + 4 / 7) / 3, abs=1e-12)
    assert result["rows"][2]["clip_score"] == pytest.approx(3 / 7, abs=1e-12)


def test_a_corpus_of_one_class_is_refused(model_folder, songs):
    corpus = relabel(songs, {split: dict.fromkeys(numbers, ("keys",)) for split, numbers in SEVERAL_LABELS.items()})
    with pytest.raises(UsageError, match=r"All clips in the train split of the corpus songs .* at least two classes"):
        result_of(model_folder, corpus)


def test_the_folder_of_a_run_is_refused_before_the_music_is_prepared(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(to_json(TrainConfig(width=0.0625))))
    (tmp_path / "music").mkdir()
    with pytest.raises(UsageError, match=r"run is not a model folder: .*clmr_tf\.export"):
        probe_model(ProbeConfig(tmp_path / "run", str(tmp_path / "music"), corpora=tmp_path / "corpora"))
    assert not (tmp_path / "corpora").exists()


@pytest.mark.parametrize(
    ("num_songs", "tag_names", "missing"),
    [
        ({"train": 1, "valid": 1, "test": 1}, (), "no tags"),
        ({"train": 2, "valid": 1}, ("a", "b"), "no test split"),
        ({"train": 2}, ("a", "b"), "no valid and no test split"),
        ({"valid": 1, "test": 1}, ("a", "b"), "no train split"),
    ],
)
def test_a_corpus_without_tags_or_a_split_is_refused(model_folder, tmp_path, num_songs, tag_names, missing):
    corpus = synthetic_corpus(tmp_path / "lacking", num_songs=num_songs, num_samples=CLIP, tag_names=tag_names)
    with pytest.raises(UsageError, match=f"The corpus lacking has {missing}; ") as refused:
        result_of(model_folder, corpus)
    assert "python -m pipelines.folder MUSIC --out FOLDER --tags folder --test-fraction 0.2" in str(refused.value)
