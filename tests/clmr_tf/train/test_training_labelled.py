"""Supervised runs: labels, early stopping, resuming, and settings that do not fit together."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest

from clmr_tf.config.train import TrainConfig
from clmr_tf.data.labels import sample_songs
from clmr_tf.errors import UsageError
from clmr_tf.train.run import train, training_data
from tests.clmr_tf.train.labelled_runs import TAGS, config_of, write_labelled_corpus
from tests.clmr_tf.train.training_runs import metrics, state

pytestmark = pytest.mark.usefixtures("tiny_network")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_labelled_corpus(tmp_path_factory)


@pytest.fixture(scope="module")
def ended_early(corpus, tmp_path_factory, tiny_network):
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


@pytest.mark.soak
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


def test_label_subset_is_that_of_the_probe(corpus, tmp_path):
    config = config_of(corpus, tmp_path / "run", steps=1, labels=0.3, seed=5)
    train(config)
    labels = json.loads((config.workdir / "run.json").read_text())["labels"]
    assert labels["selection"]["num_songs"] == 3 and labels["selection"]["of"]["num_songs"] == 10
    assert labels["tag_names"] == list(TAGS) and labels["single_label"] is True

    learned = training_data(corpus, config).corpus
    song_ids = sorted({item.song_id for item in corpus.items_of("train")})
    songs = {song_ids[place] for place in sample_songs(pa.chunked_array([song_ids]), 0.3, 5)}
    assert {item.song_id for item in learned.items_of("train")} == songs and len(songs) == 3
    assert len(learned.items_of("valid")) == 5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"labels": 0.1}, "--labels is for --objective supervised and finetune; received 0.1"),
        ({"objective": "finetune"}, "--objective finetune needs --pretrained"),
        ({"pretrained": "model"}, "no other objective accepts it; received --objective contrastive"),
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
