"""The whole evaluation by a head on a small corpus: what it learns from, what it scores, what it writes."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from clmr_tf.data.corpus import PCM_FILE, Corpus
from clmr_tf.data.labels import songs_within_share
from clmr_tf.errors import UsageError
from clmr_tf.export.model_folder import weights_hash
from clmr_tf.inference.encoder import Encoder
from clmr_tf.probe import evaluation as head_probing
from clmr_tf.probe.evaluation import HeadProbe, probe_with_head
from clmr_tf.probe.features import crop_offset
from clmr_tf.probe.heads import fit_head
from clmr_tf.probe.protocols import PROTOCOLS, grid_of_heads
from tests.clmr_tf.probed import CLIP, NUM_SONGS, TAGS, tiny_model, write_corpus_with_tasks, write_tiny_model
from tests.synthetic import write_corpus

SEED = 7


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def model_folder(model, tmp_path_factory) -> Path:
    return write_tiny_model(model, tmp_path_factory.mktemp("savedmodels") / "tiny")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return write_corpus_with_tasks(tmp_path_factory.mktemp("corpora") / "songs")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def request_of(model_folder, corpus, cache):
    def make(preset: str = "released", **options) -> HeadProbe:
        return HeadProbe(model_folder, str(corpus.folder), Path("unused"), cache, preset, seed=SEED, **options)

    return make


def samples_of(corpus: Corpus, split: str) -> list[np.ndarray]:
    pcm = np.fromfile(corpus.folder / PCM_FILE, "<i2").astype(np.float32) / 32768
    return [pcm[item.offset_samples :][: item.num_samples] for item in corpus.items if item.split == split]


def test_the_released_protocol_step_by_step(request_of, corpus, model):
    """One crop a clip to learn from, chunks without the last to be scored by, sigmoids averaged, scikit-learn."""
    result = probe_with_head(request_of(task="several"))
    embedded, tags = {}, {}
    for split in ("train", "valid"):
        items = corpus.items_of(split)
        offsets = [crop_offset(item.id, item.num_samples - CLIP + 1, SEED) for item in items]
        crops = [samples[at:][:CLIP] for samples, at in zip(samples_of(corpus, split), offsets, strict=True)]
        embedded[split] = model(np.stack(crops), training=False).numpy()
    numbers = {item.id: row for row, item in enumerate(corpus.items)}
    for split in NUM_SONGS:
        rows = [numbers[item.id] % 4 for item in corpus.items_of(split)]
        tags[split] = np.array([[row & 1, row >> 1, 0] for row in rows], np.float32)
    fit = fit_head(
        embedded["train"],
        tags["train"],
        embedded["valid"],
        tags["valid"],
        PROTOCOLS["released"].head,
        single_label=False,
        seed=SEED,
    )
    scores, num_windows = [], 0
    for samples in samples_of(corpus, "test"):
        starts = list(range(0, len(samples), CLIP))[:-1]
        embeddings = model(np.stack([samples[start:][:CLIP] for start in starts]), training=False).numpy()
        scores.append(np.mean(1 / (1 + np.exp(-fit.head.logits(embeddings).astype(float))), axis=0))
        num_windows += len(starts)
    scores = np.array(scores)[:, :2]
    test = result["scores"]["test"]
    for name, metric in (("roc_auc", roc_auc_score), ("average_precision", average_precision_score)):
        expected = metric(tags["test"][:, :2], scores, average=None)
        assert list(test[name]["per_tag"].values()) == [pytest.approx(value, abs=1e-9) for value in expected] + [None]
    assert (test["num_windows"], test["num_clips"], test["num_songs"]) == (num_windows, 10, 10)
    assert test["tags_without_positives"] == result["labels"]["tags_without_positives"] == ["never"]
    assert result["fit"]["num_steps"] == fit.num_steps
    assert result["fit"]["valid"] == pytest.approx(fit.best_value, rel=1e-4)


def test_a_result_says_everything_that_is_needed_to_repeat_it(request_of, corpus, model):
    result = probe_with_head(request_of(task="several"))
    assert result["corpus"]["fingerprint"] == corpus.manifest.fingerprint
    assert result["task"] == {
        "name": "several",
        "fingerprint": corpus.for_task("several").manifest.fingerprint,
    }
    assert result["features"]["model_hash"] == weights_hash(model)
    assert (result["features"]["kind"], result["features"]["training_step"], result["seed"]) == ("model", 3, SEED)
    head = dataclasses.asdict(PROTOCOLS["released"].head)
    assert result["protocol"]["head"] == head and (head["learning_rate"], head["batch_size"]) == (1e-3, 48)
    assert {"tensorflow", "scikit-learn", "clmr_tf"} <= result["versions"].keys()
    assert json.loads(json.dumps(result, allow_nan=False)) == json.loads(
        json.dumps(probe_with_head(request_of(task="several")))
    )


def test_features_are_computed_once(request_of, monkeypatch):
    expected = probe_with_head(request_of("thesis"))

    def never(*arguments):
        raise AssertionError("computed again")

    monkeypatch.setattr(Encoder, "encode_clips", never)
    for options in ({}, {"labels": 0.5}):
        result = probe_with_head(request_of("thesis", **options))
        assert result["features"] == expected["features"]
    with pytest.raises(AssertionError, match="computed again"):
        probe_with_head(dataclasses.replace(request_of("released"), seed=SEED + 1))


def test_a_clip_of_one_window_is_scored_by_it_and_counted(request_of, tmp_path):
    # The first item is exactly one window long, and every other a little more.
    num_songs = {"test": 3, "train": 4, "valid": 4}
    corpus = write_corpus(tmp_path / "short", num_songs=num_songs, num_samples=CLIP, tag_names=TAGS)
    test = probe_with_head(dataclasses.replace(request_of(), corpus=str(corpus.folder)))["scores"]["test"]
    assert test["num_clips_of_one_window"] == 1
    assert test["num_windows"] == test["num_clips"] == 3


def test_few_labels_are_a_share_of_the_songs_or_as_the_paper_took_them(request_of, corpus):
    labels = probe_with_head(request_of("thesis", labels=0.3))["labels"]
    # 0.3 of 14 songs; the counts of chunks are of clips of two windows but one.
    assert (labels["choice"], labels["share"], labels["num_songs"], labels["num_clips"]) == (
        "share of the songs",
        0.3,
        4,
        4,
    )
    assert labels["of"]["num_songs"] == 14
    assert labels["tags_without_positives"] == sorted(set(TAGS) - chosen_tags(corpus, 0.3))

    result = probe_with_head(request_of("released", labels_like_paper=0.01))
    assert result["labels"]["choice"] == "share of the examples of each combination of tags, at least one"
    # One chunk of each of three tags.
    assert result["labels"]["num_examples"] == 3 and result["labels"]["tags_without_positives"] == []
    assert result["protocol"]["train_windows"] == "chunks"


def chosen_tags(corpus: Corpus, share: float) -> set[str]:
    items = corpus.items_of("train")
    songs = songs_within_share([item.song_id for item in items], share, SEED)
    return {tag for item in items if item.song_id in songs for tag in item.tags}


def test_baselines_go_through_the_same_protocol(request_of):
    results = {kind: probe_with_head(request_of(features=kind)) for kind in ("untrained", "mel", "majority", "model")}
    majority = results["majority"]["scores"]["test"]
    assert majority["roc_auc"]["over_tags"]["mean"] == 0.5
    # Of ten songs in turn, four have the first tag and three each of the others.
    assert list(majority["average_precision"]["per_tag"].values()) == pytest.approx([0.4, 0.3, 0.3])
    assert majority["accuracy"]["mean"] == pytest.approx(0.4)
    assert results["mel"]["protocol"]["head"]["standardise"] and not results["model"]["protocol"]["head"]["standardise"]
    assert results["mel"]["scores"]["test"]["roc_auc"]["over_tags"]["mean"] > 0.7
    hashes = {kind: results[kind]["features"].get("model_hash") for kind in ("untrained", "model")}
    assert hashes["untrained"] != hashes["model"] and results["untrained"]["features"]["seed"] == SEED
    for kind, result in results.items():
        assert result["features"]["kind"] == kind
        assert result["labels"] == results["model"]["labels"]


def test_features_of_others_are_named_by_their_class(request_of):
    others = probe_with_head(request_of(features="clmr_tf.probe.features:MelFeatures"))
    assert others == probe_with_head(request_of(features="mel"))


def test_a_task_brings_its_own_classes_and_splits(request_of):
    result = probe_with_head(request_of("thesis", task="halves", head="mlp"))
    assert result["single_label"] and result["corpus"]["tag_names"] == ["left", "right"]
    assert result["scores"]["test"]["num_clips"] == 4
    assert result["protocol"]["head"]["hidden_units"] == 512
    assert 0 <= result["scores"]["test"]["accuracy"]["mean"] <= 1


def test_the_grid_chooses_and_is_read_from_its_journal(request_of, cache, monkeypatch):
    few = [
        dataclasses.replace(head, patience=2)
        for head in grid_of_heads(True)
        if (head.hidden_units, head.batch_size, head.dropout, head.weight_decay) == (0, 64, 0.25, 0.0)
        and head.learning_rate >= 1e-4
    ]
    monkeypatch.setattr(head_probing, "grid_of_heads", lambda single_label: few)
    result = probe_with_head(request_of("grid"))
    fit = result["fit"]
    assert fit["num_runs"] == len(fit["runs"]) == 4 and fit["monitor"] == "accuracy"
    assert fit["valid"] == max(run["valid"] for run in fit["runs"])
    assert result["protocol"]["head"] in [run["settings"] for run in fit["runs"]]
    assert result["scores"]["test"]["num_windows"] == 10
    (journal,) = cache.rglob("grid-*.jsonl")
    written = journal.stat().st_mtime_ns
    assert probe_with_head(request_of("grid")) == result
    assert journal.stat().st_mtime_ns == written
    # With all of them standardised, two and two are the same.
    assert probe_with_head(request_of("grid", features="mel"))["fit"]["num_runs"] == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": 0.0}, "--labels must be a share above 0 and up to 1; received 0.0"),
        ({"labels_like_paper": 1.5}, "--labels-like-paper must be .* received 1.5"),
        ({"labels": 0.1, "labels_like_paper": 0.1}, "give one of them"),
        ({"preset": "grid", "labels_like_paper": 0.1}, "preset grid learns from means"),
        ({"task": "unknown"}, "unknown"),
        ({"features": "melody"}, "--features must be one of model, untrained, mel, majority, .* received 'melody'"),
        ({"features": ":Features"}, "--features must be one of .* received ':Features'"),
        ({"features": "no_such_module:Features"}, "cannot be imported .*no_such_module.*; give MODULE:CLASS"),
        ({"features": "clmr_tf.metrics:Features"}, "clmr_tf.metrics has no class Features"),
        ({"features": "builtins:range"}, "lacks kind, identity, .*; see FeatureSource"),
    ],
)
def test_what_does_not_go_together_is_refused(request_of, options, words):
    with pytest.raises(UsageError, match=words):
        probe_with_head(request_of(**options))
