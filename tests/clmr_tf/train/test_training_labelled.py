"""Supervised and fine-tuning runs: labels, early stopping, resuming and export."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from clmr_tf.config.train import TrainConfig
from clmr_tf.data.labels import sample_songs
from clmr_tf.errors import UsageError
from clmr_tf.export.__main__ import ExportConfig, export
from clmr_tf.export.model_folder import read_head
from clmr_tf.inference.encoder import load_encoder
from clmr_tf.probe.evaluation import probe_model
from clmr_tf.probe.settings import ProbeConfig
from clmr_tf.train.run import train, training_data
from tests.clmr_tf.train.training_runs import metrics, state
from tests.synthetic import write_corpus

# Synthetic songs with the same tag have the same register.
TAGS = ("a", "b", "c", "d", "e")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "melodies"
    songs = {"train": 10, "valid": 5, "test": 10}
    return write_corpus(folder, num_songs=songs, num_samples=130_000, tag_names=TAGS)


def config_of(corpus, workdir, **settings) -> TrainConfig:
    quick = {"width": 0.0625, "batch_size": 4, "num_validation_pairs": 8, "num_audio_examples": 0, "log_every": 1}
    quick |= {"objective": "supervised", "embeddings_every": 0, "validate_every": 1}
    return TrainConfig(**{"corpus": str(corpus.folder), "workdir": workdir, **quick, **settings})


@pytest.fixture(scope="module")
def ended_early(corpus, tmp_path_factory):
    """A run whose learning rate is so low that the float32 validation loss soon stops changing."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    config = config_of(corpus, workdir, steps=200, learning_rate=1e-12, plateau_patience=2, early_stopping=6)
    return config, train(config)


def test_run_reduces_its_learning_rate_and_stops_early(ended_early):
    config, outcome = ended_early
    rows = metrics(config.workdir)
    losses = [row["validation_loss"] for row in rows]
    assert outcome.ended_early and outcome.num_steps == len(rows) < 200
    assert min(losses[-6:]) >= min(losses[:-6])
    rates = [row["learning_rate"] for row in rows]
    assert rates[0] == pytest.approx(1e-12) and rates[-1] < rates[0] / 4
    again = train(config)
    assert again.ended_early and again.first_step == again.num_steps == outcome.num_steps


def test_resumed_run_stops_at_the_same_step_with_the_same_state(ended_early, tmp_path):
    config, outcome = ended_early
    shorter = dataclasses.replace(config, workdir=tmp_path / "resumed")
    half = outcome.num_steps // 2
    train(dataclasses.replace(shorter, steps=half))
    assert train(shorter).num_steps == outcome.num_steps
    assert metrics(shorter.workdir) == metrics(config.workdir)
    expected, received = state(config.workdir), state(shorter.workdir)
    assert expected.keys() == received.keys()
    assert all(np.array_equal(expected[name], received[name]) for name in expected)


def test_corpus_may_move_but_not_change(corpus, tmp_path):
    config = config_of(corpus, tmp_path / "run", steps=1)
    train(config)
    moved = shutil.copytree(corpus.folder, tmp_path / "moved")
    assert train(dataclasses.replace(config, corpus=str(moved), steps=2)).first_step == 1
    other = write_corpus(tmp_path / "other", num_songs={"train": 10, "valid": 5}, num_samples=70_000, tag_names=TAGS)
    with pytest.raises(UsageError, match="is not the one that the run in"):
        train(dataclasses.replace(config, corpus=str(other.folder), steps=3))


def test_label_subset_is_that_of_the_probe(corpus, tmp_path):
    config = config_of(corpus, tmp_path / "run", steps=1, labels=0.3, seed=5)
    train(config)
    labels = json.loads((config.workdir / "run.json").read_text())["labels"]
    assert labels["chosen"]["num_songs"] == 3 and labels["chosen"]["of"]["num_songs"] == 10
    assert labels["tag_names"] == list(TAGS) and labels["single_label"] is True

    learned = training_data(corpus, config).corpus
    songs = sample_songs([item.song_id for item in corpus.items_of("train")], 0.3, 5)
    assert {item.song_id for item in learned.items_of("train")} == songs and len(songs) == 3
    assert len(learned.items_of("valid")) == 5


@pytest.fixture(scope="module")
def exported(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    settings = {"optimizer": "adam", "learning_rate": 1e-3, "batch_size": 10, "validate_every": 20, "early_stopping": 0}
    train(config_of(corpus, folder / "run", steps=100, **settings))
    return export(ExportConfig(model=folder / "run", out=folder / "model"))


def probe_of(corpus, model, **settings) -> dict:
    places = {"model": model, "corpus": str(corpus.folder), "features_cache": model.parent / "features"}
    return probe_model(ProbeConfig(**places, preset="released", head="own", **settings))[0]


def test_own_head_scores_an_exported_model_window_by_window(corpus, exported):
    result = probe_of(corpus, exported)
    assert (result["head"], result["objective"], result["fit"]) == ("own", "supervised", None)
    assert result["labels"]["num_songs"] == 10 and result["protocol"]["head"] is None

    encoder, head = load_encoder(exported), read_head(exported)
    items, is_right = corpus.items_of("test"), []
    for item in items:
        samples = corpus.read_samples(item)
        # Each recording has two whole windows.
        chunks = np.stack([samples[start : start + 59049] for start in (0, 59049)])
        logits = head.logits(encoder.encode_clips(chunks)).astype(np.float64)
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        is_right.append(TAGS[probabilities.mean(axis=0).argmax()] == item.tags[0])
    assert result["scores"]["test"]["accuracy"]["mean"] == pytest.approx(np.mean(is_right))
    assert result["scores"]["test"]["num_windows"] == 2 * len(items)


def test_supervised_run_scores_above_chance(corpus, exported):
    # Chance is one in five.
    assert probe_of(corpus, exported)["scores"]["test"]["accuracy"]["mean"] >= 0.6


def test_fine_tuning_starts_from_the_pretrained_weights(corpus, exported, tmp_path):
    settings = {"objective": "finetune", "pretrained": exported, "steps": 1, "validate_every": 0, "early_stopping": 0}
    # The running average must start from the loaded weights, not from the random initialization.
    settings |= {"schedule": "constant", "optimizer": "sgd", "learning_rate": 1e-9, "ema_momentum": 0.5}
    config = config_of(corpus, tmp_path / "run", **settings)
    train(config)
    weights = load_encoder(exported).model.trainable_variables
    tuned = load_encoder(config.workdir).model.trainable_variables
    for before, after in zip(weights, tuned, strict=True):
        np.testing.assert_allclose(after.numpy(), before.numpy(), rtol=1e-4, atol=1e-6)
    with pytest.raises(UsageError, match=r"has --width 0\.0625 and --sample-rate-hz 22050, but the run has 0\.125"):
        train(dataclasses.replace(config, workdir=tmp_path / "wider", width=0.125))


def test_unusable_labels_and_settings_are_rejected(corpus, exported, tmp_path):
    unlabelled = write_corpus(tmp_path / "unlabelled", num_songs={"train": 4, "valid": 2})
    with pytest.raises(UsageError, match="The corpus unlabelled has no tags"):
        train(config_of(unlabelled, tmp_path / "run", steps=1))
    others = {"num_songs": {"train": 4, "valid": 2, "test": 2}, "num_samples": 60_000, "tag_names": ("a", "z")}
    with pytest.raises(UsageError, match="was trained for other tags than those of others, such as 'a'"):
        probe_of(write_corpus(tmp_path / "others", **others), exported)
    config = config_of(corpus, tmp_path / "run", best_metric="validation_average_precision")
    with pytest.raises(UsageError, match=r"The clips have one tag each, for which --best-metric .* use validation_acc"):
        training_data(corpus, config)
    with pytest.raises(UsageError, match="--head own scores a model as it was trained"):
        probe_of(corpus, exported, labels=0.5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"labels": 0.1}, "--labels is for --objective supervised and finetune; received 0.1"),
        ({"objective": "finetune"}, "--objective finetune needs --pretrained"),
        ({"pretrained": "model"}, "no other objective takes it; received --objective contrastive"),
        ({"objective": "supervised", "labels": 0.0}, "--labels must be a fraction above 0 and up to 1; received 0"),
        (
            {"objective": "supervised", "labels": 0.5, "labels_like_paper": 0.5},
            "use --labels or --labels-like-paper, not both",
        ),
        ({"objective": "supervised", "validate_every": 0}, "need --validate-every; received 0"),
        ({"schedule": "plateau", "warmup_steps": 5}, "--schedule plateau has no warm-up"),
        ({"early_stopping": -1}, "--early-stopping must not be negative; received -1"),
        ({"dropout": 1.0, "objective": "supervised"}, "--dropout must be from 0 to below 1; received 1"),
        ({"best_metric": "validation_average_precision"}, "is for --objective supervised and finetune"),
    ],
)
def test_conflicting_settings_are_rejected(settings, words):
    with pytest.raises(UsageError, match=words):
        TrainConfig(**settings)
