"""The evaluation by a head on a small corpus: what it trains on, what it scores and what its result says."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from clmr_tf.config.command_line import to_json
from clmr_tf.config.train import TrainConfig
from clmr_tf.data.corpus import Corpus
from clmr_tf.data.labels import sample_songs
from clmr_tf.errors import UsageError
from clmr_tf.export.keras_model import weights_hash
from clmr_tf.inference.encoder import Encoder
from clmr_tf.probe import evaluation
from clmr_tf.probe.evaluation import probe_model
from clmr_tf.probe.features import crop_offset
from clmr_tf.probe.heads import fit_head
from clmr_tf.probe.protocols import PROTOCOLS, grid_of_heads
from clmr_tf.probe.settings import ProbeConfig
from tests.clmr_tf.probed import CLIP, NUM_SONGS, TAGS
from tests.synthetic import PCM_FILE, changed_corpus, synthetic_corpus

SEED = 7


@pytest.fixture
def result_of(model_folder, corpus, cache):
    def probe(preset: str = "released", **options) -> dict:
        places = {"model": model_folder, "corpus": str(corpus.folder), "features_cache": cache, "seed": SEED}
        return probe_model(ProbeConfig(**{**places, **options}, preset=preset))[0]

    return probe


def samples_of(corpus: Corpus, split: str) -> list[np.ndarray]:
    pcm = np.fromfile(corpus.folder / PCM_FILE, "<i2").astype(np.float32) / 32768
    return [pcm[item.offset_samples :][: item.num_samples] for item in corpus.items if item.split == split]


def test_the_released_protocol_step_by_step(result_of, corpus, model):
    """One crop per clip to train on, chunks without the last to score, sigmoids averaged, scikit-learn's metrics."""
    result = result_of(task="several")
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

    # The result says everything that is needed to repeat it, and a repetition gives the same.
    assert result["corpus"]["fingerprint"] == corpus.manifest.fingerprint
    several = corpus.for_task("several")
    described = {"fingerprint": several.manifest.fingerprint, "description": several.task.description}
    assert result["task"] == {"name": "several", **described}
    assert result["features"]["model_hash"] == weights_hash(model)
    assert (result["features"]["kind"], result["features"]["training_step"], result["seed"]) == ("model", 3, SEED)
    head = dataclasses.asdict(PROTOCOLS["released"].head)
    assert result["protocol"]["head"] == head and (head["learning_rate"], head["batch_size"]) == (1e-3, 48)
    assert {"tensorflow", "scikit-learn", "clmr_tf"} <= result["versions"].keys()
    assert json.loads(json.dumps(result, allow_nan=False)) == json.loads(json.dumps(result_of(task="several")))


def test_features_are_computed_once(result_of, monkeypatch):
    expected = result_of("thesis")

    def fail(*arguments):
        raise AssertionError("computed again")

    monkeypatch.setattr(Encoder, "encode_clips", fail)
    for options in ({}, {"labels": 0.5}):
        assert result_of("thesis", **options)["features"] == expected["features"]
    with pytest.raises(AssertionError, match="computed again"):
        result_of("released", seed=SEED + 1)


def test_a_clip_of_one_window_is_scored_by_it_and_counted(result_of, tmp_path):
    # The first item is exactly one window long, and every other a little longer.
    num_songs = {"test": 3, "train": 4, "valid": 4}
    corpus = synthetic_corpus(tmp_path / "short", num_songs=num_songs, num_samples=CLIP, tag_names=TAGS)
    test = result_of(corpus=str(corpus.folder))["scores"]["test"]
    assert test["num_clips_of_one_window"] == 1
    assert test["num_windows"] == test["num_clips"] == 3


def test_few_labels_are_a_fraction_of_the_songs_or_chosen_like_the_paper(result_of, corpus):
    result = result_of("thesis", labels=0.3)
    labels, items = result["labels"], corpus.items_of("train")
    song_ids = sorted({item.song_id for item in items})
    songs = {song_ids[place] for place in sample_songs(pa.chunked_array([song_ids]), 0.3, SEED)}
    tags = {tag for item in items if item.song_id in songs for tag in item.tags}
    # 0.3 of 14 songs.
    assert (labels["choice"], labels["fraction"], labels["num_songs"]) == ("fraction of the songs", 0.3, 4)
    assert labels["of"]["num_songs"] == 14 and labels["tags_without_positives"] == sorted(set(TAGS) - tags)

    result = result_of("released", labels_like_paper=0.01)
    # One chunk of each of three tags.
    assert result["labels"]["num_examples"] == 3 and result["labels"]["tags_without_positives"] == []
    assert result["protocol"]["train_windows"] == "chunks"


@pytest.mark.soak
def test_baselines_use_the_same_protocol(result_of):
    results = {kind: result_of(features=kind) for kind in ("untrained", "mel", "majority", "model")}
    majority = results["majority"]["scores"]["test"]
    assert majority["roc_auc"]["over_tags"]["mean"] == 0.5
    # Of ten songs, four have the first tag and three each of the others.
    assert list(majority["average_precision"]["per_tag"].values()) == pytest.approx([0.4, 0.3, 0.3])
    assert majority["accuracy"]["mean"] == pytest.approx(0.4)
    assert results["mel"]["protocol"]["head"]["standardise"] and not results["model"]["protocol"]["head"]["standardise"]
    assert results["mel"]["scores"]["test"]["roc_auc"]["over_tags"]["mean"] > 0.7
    hashes = {kind: results[kind]["features"].get("model_hash") for kind in ("untrained", "model")}
    assert hashes["untrained"] != hashes["model"] and results["untrained"]["features"]["seed"] == SEED
    for kind, result in results.items():
        assert result["features"]["kind"] == kind
        assert result["labels"] == results["model"]["labels"]
    assert result_of(features="clmr_tf.probe.features:MelFeatures") == results["mel"]


def test_a_task_has_its_own_classes_and_splits(result_of):
    result = result_of("thesis", task="halves", head="mlp")
    assert result["single_label"] and result["corpus"]["tag_names"] == ["left", "right"]
    assert result["scores"]["test"]["num_clips"] == 4
    assert result["protocol"]["head"]["hidden_units"] == 512


@pytest.mark.soak
def test_the_grid_chooses_a_head_and_continues_from_its_journal(result_of, cache, monkeypatch):
    few = [
        dataclasses.replace(head, patience=2)
        for head in grid_of_heads(True)
        if (head.hidden_units, head.batch_size, head.dropout, head.weight_decay) == (0, 64, 0.25, 0.0)
        and head.learning_rate >= 1e-4
    ]
    monkeypatch.setattr(evaluation, "grid_of_heads", lambda single_label: few)
    result = result_of("grid")
    fit = result["fit"]
    assert fit["num_runs"] == len(fit["runs"]) == 4 and fit["monitor"] == "accuracy"
    assert fit["valid"] == max(run["valid"] for run in fit["runs"])
    assert result["protocol"]["head"] in [run["settings"] for run in fit["runs"]]
    assert result["scores"]["test"]["num_windows"] == 10
    (journal,) = cache.rglob("grid-*.jsonl")
    written = journal.stat().st_mtime_ns
    assert result_of("grid") == result
    assert journal.stat().st_mtime_ns == written
    # If all of them are standardised, half are duplicates.
    assert result_of("grid", features="mel")["fit"]["num_runs"] == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": 0.0}, "--labels must be a fraction above 0 and up to 1; received 0.0"),
        ({"labels_like_paper": 1.5}, "--labels-like-paper must be .* received 1.5"),
        ({"labels": 0.1, "labels_like_paper": 0.1}, "cannot be combined"),
        ({"preset": "grid", "labels_like_paper": 0.1}, "preset grid trains on means"),
        ({"preset": "grid", "head": "own"}, "--head own trains nothing"),
        ({"head": "own", "labels": 0.5}, "--head own scores a model as it was trained"),
        (
            {"preset": "retrieval", "labels_like_paper": 0.5},
            "--labels-like-paper has no effect with --preset retrieval",
        ),
        ({"preset": "retrieval", "labels_seed": 2}, "--labels-seed has no effect with --preset retrieval"),
        ({"baselines": False}, "--no-baselines has no effect with --preset released; use it with standard or"),
        ({"labels_seed": -1}, "--labels-seed must be between 0 and 2147483647; received -1"),
        ({"preset": "standard", "head": "mlp"}, "--preset standard has a linear head; use --head linear, or"),
        (
            {"compare": (Path("x"),)},
            "--compare has no effect with --preset released; use --preset standard or retrieval",
        ),
        ({"seed": -1}, "--seed must be between 0 and 2147483647; received -1"),
        ({"seed": 2**31}, "--seed must be between 0 and 2147483647; received 2147483648"),
        ({"features": "melody"}, "--features must be one of model, untrained, mel, majority, .* received 'melody'"),
        ({"features": ":Features"}, "--features must be one of .* received ':Features'"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        ProbeConfig(**{"preset": "released", **options})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "unknown"}, "unknown"),
        ({"features": "no_such_module:Features"}, "cannot be imported .*no_such_module.*; give MODULE:CLASS"),
        ({"features": "clmr_tf.metrics:Features"}, "clmr_tf.metrics has no class Features"),
        ({"features": "builtins:range"}, "has no kind, .*, identity, .*; see FeatureSource"),
    ],
)
def test_unknown_tasks_and_feature_sources_are_refused(result_of, options, words):
    with pytest.raises(UsageError, match=words):
        result_of(**options)


def test_a_corpus_of_one_class_is_refused(result_of, tmp_path):
    corpus = synthetic_corpus(
        tmp_path / "songs", num_songs={"train": 2, "valid": 1, "test": 1}, num_samples=CLIP, tag_names=TAGS
    )
    items = [dataclasses.replace(item, tags=("keys",)) for item in corpus.items]
    changed_corpus(corpus, corpus.folder, items, tag_names=TAGS)
    with pytest.raises(UsageError, match=r"All clips in the train split of the corpus songs .* at least two classes"):
        result_of("standard", corpus=str(corpus.folder))


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
def test_a_corpus_without_tags_or_a_split_is_refused(result_of, tmp_path, num_songs, tag_names, missing):
    corpus = synthetic_corpus(tmp_path / "lacking", num_songs=num_songs, num_samples=CLIP, tag_names=tag_names)
    with pytest.raises(UsageError, match=f"The corpus lacking has {missing}; ") as refused:
        result_of("standard", corpus=str(corpus.folder))
    assert "python -m pipelines.folder MUSIC --out FOLDER --tags folder --test-fraction 0.2" in str(refused.value)
