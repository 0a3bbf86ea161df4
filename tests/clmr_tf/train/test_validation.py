"""Validation and probes during training, compared with separate calculations."""

import logging

import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from clmr_tf.augment import AugmentationChain
from clmr_tf.config.augmentation import augmentation_preset
from clmr_tf.config.train import TrainConfig
from clmr_tf.data.crops import pair_dataset
from clmr_tf.probe.protocols import L2_STRENGTHS
from clmr_tf.train.build import build_model
from clmr_tf.train.run import train
from clmr_tf.train.validation import build_validation
from tests.clmr_tf.train.training_runs import metrics, state
from tests.reference.nt_xent import nt_xent
from tests.synthetic import synthetic_corpus
from tests.tiny_network import CLIP_NUM_SAMPLES

pytestmark = pytest.mark.usefixtures("tiny_network")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "melodies"
    songs = {"train": 6, "valid": 5}
    return synthetic_corpus(folder, num_songs=songs, num_samples=60_000, tag_names=("a", "b"))


def config_of(corpus, workdir, **settings) -> TrainConfig:
    quick = {"width": 0.0625, "batch_size": 4, "augmentation": "only-gain", "num_audio_examples": 0}
    quick |= {"embeddings_every": 0, "validate_every": 1, "log_every": 1, "num_validation_pairs": 11}
    return TrainConfig(**{"corpus": str(corpus.folder), "workdir": workdir, **quick, **settings})


def trained_model(config: TrainConfig):
    """Builds the model with the weights and running statistics of the run's checkpoint."""
    model = build_model(config.resolved())
    saved = state(config.workdir)
    for name, part in (("encoder", model.encoder), ("projector", model.projector)):
        for variable in part.variables:
            key = ".S".join(variable.path.split("/")[-2:])
            variable.assign(saved[f"{name}/{key}/.ATTRIBUTES/VARIABLE_VALUE"])
    return model


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """Trains two steps and returns the configuration of the run."""
    config = config_of(corpus, tmp_path_factory.mktemp("runs") / "whole", steps=2)
    train(config)
    return config


def test_validation_equals_hand_calculation_on_fixed_views(corpus, whole):
    config = whole
    model = trained_model(config)
    # Validation always uses seed 0; 11 pairs make two whole batches of 4.
    batches = list(pair_dataset(corpus, "valid", batch_size=4, clip_num_samples=CLIP_NUM_SAMPLES, seed=0).take(2))
    chain = AugmentationChain(augmentation_preset("only-gain"))
    losses, hits = [], []
    for batch in batches:
        # This preset leaves the second view of each pair unaugmented.
        is_first_view = tf.constant([True, False] * 4)
        views = chain(tf.reshape(batch["clips"], [8, -1]), tf.reshape(batch["seeds"], [8, 2]), is_first_view)
        z = model.projector(model.encoder(views, training=False), training=False).numpy()
        losses.append(nt_xent(z[0::2], z[1::2], 0.5))
        directions = z / np.linalg.norm(z, axis=1, keepdims=True)
        nearest = (directions @ directions.T - 9 * np.eye(8)).argmax(axis=1)
        hits.append(nearest == np.arange(8) ^ 1)
    row = metrics(config.workdir)[-1]
    assert row["validation_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert row["validation_accuracy"] == pytest.approx(np.mean(hits), abs=1e-6)
    # The gains are random but repeatable.
    validate = build_validation(model, corpus, config)
    assert validate() == validate()
    model._augment = lambda audio, _seeds, _augmented: audio
    assert build_validation(model, corpus, config)() != validate()


@pytest.mark.soak
def test_resumed_run_has_the_same_validations(corpus, whole, tmp_path):
    for steps in (1, 2):
        train(config_of(corpus, tmp_path / "resumed", steps=steps))
    rows = metrics(whole.workdir)
    assert rows == metrics(tmp_path / "resumed")
    assert rows[0]["validation_loss"] != rows[1]["validation_loss"]


@pytest.mark.soak
def test_run_without_enough_validation_songs_warns_and_trains(tmp_path, caplog):
    corpus = synthetic_corpus(
        tmp_path / "music", num_songs={"train": 4, "valid": 1}, num_samples=60_000, tag_names=("a",)
    )
    with caplog.at_level(logging.WARNING):
        train(config_of(corpus, tmp_path / "run", steps=1, augmentation="none"))
    messages = [record.message for record in caplog.records if record.name == "clmr_tf.train.validation"]
    assert messages == ["The corpus music has fewer than 2 songs to validate on; the run is not validated."]
    (row,) = metrics(tmp_path / "run")
    assert "validation_loss" not in row and np.isfinite(row["loss"])
    assert not list((tmp_path / "run").glob("best/*"))


def test_probe_score_equals_logistic_regression_on_valid_split(tmp_path):
    songs = {"train": 6, "valid": 5}
    num_samples = 2 * CLIP_NUM_SAMPLES + 20
    corpus = synthetic_corpus(tmp_path / "music", num_songs=songs, num_samples=num_samples, tag_names=("a", "b"))
    settings = {"augmentation": "none", "validate_every": 0, "probe_every_epochs": 2, "best_metric": "probe_score"}
    # An epoch of six songs has one batch of four.
    config = config_of(corpus, tmp_path / "run", steps=3, log_every=5, **settings)
    train(config)
    rows = metrics(tmp_path / "run")
    assert [row["step"] for row in rows] == [2, 3] and all("probe_score" in row for row in rows)
    encoder = trained_model(config).encoder

    def windows(split):
        vectors, classes, clips = [], [], []
        for clip, item in enumerate(corpus.items_of(split)):
            num_windows = item.num_samples // CLIP_NUM_SAMPLES
            samples = corpus.read_samples(item)[: num_windows * CLIP_NUM_SAMPLES].reshape(num_windows, -1)
            vectors.append(encoder(samples.astype(np.float32), training=False).numpy())
            classes += [corpus.manifest.tag_names.index(item.tags[0])] * num_windows
            clips += [clip] * num_windows
        return np.concatenate(vectors), np.array(classes), np.array(clips)

    (train_vectors, train_classes, _), (valid_vectors, valid_classes, clips) = windows("train"), windows("valid")
    mean, deviation = train_vectors.mean(0), train_vectors.std(0)
    deviation[deviation == 0] = 1
    train_inputs, valid_inputs = ((vectors - mean) / deviation for vectors in (train_vectors, valid_vectors))
    scores = {}
    for l2 in L2_STRENGTHS:
        # A softmax of two classes has two opposite columns, so its penalty is half that of one column.
        classifier = LogisticRegression(C=2 / (l2 * len(train_inputs)), tol=1e-8, max_iter=2000)
        probabilities = classifier.fit(train_inputs, train_classes).predict_proba(valid_inputs)
        predicted = [probabilities[clips == clip].mean(0).argmax() for clip in range(5)]
        scores[log_loss(valid_classes, probabilities)] = np.mean(
            predicted == valid_classes[np.unique(clips, return_index=True)[1]]
        )
    # The penalty with the lowest loss on the validation split.
    assert rows[-1]["probe_score"] == pytest.approx(scores[min(scores)])
    # The best checkpoint was chosen by this score.
    assert '"metric": "probe_score"' in next((tmp_path / "run" / "best").glob("step-*/best.json")).read_text()
