"""Validation of a classifier on fixed crops, compared with scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, log_loss

from clmr_tf.config.train import TrainConfig
from clmr_tf.data.crops import labelled_dataset
from clmr_tf.train.build import LabelSpec, build_model
from clmr_tf.train.validation import build_labelled_validation
from tests.synthetic import synthetic_corpus
from tests.tiny_network import CLIP_NUM_SAMPLES

pytestmark = pytest.mark.usefixtures("tiny_network")

TAGS = ("a", "b", "c")
CONFIG = TrainConfig(objective="supervised", width=0.0625, batch_size=4, num_validation_pairs=10).resolved()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "melodies"
    return synthetic_corpus(folder, num_songs={"train": 3, "valid": 6}, num_samples=60_000, tag_names=TAGS)


@pytest.fixture(scope="module")
def crops(corpus):
    stream = labelled_dataset(corpus, "valid", batch_size=4, clip_num_samples=CLIP_NUM_SAMPLES, seed=0)
    clips, labels = (
        np.concatenate([batch[name] for batch in stream.take(3).as_numpy_iterator()])[:10]
        for name in ("clips", "labels")
    )
    return clips[:, 0], labels


def test_single_label_metrics_equal_scikit_learn(corpus, crops):
    model = build_model(CONFIG, label_spec=LabelSpec(3, single_label=True))
    validate = build_labelled_validation(model, corpus, CONFIG)
    clips, labels = crops
    logits = model(clips, training=False).numpy().astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    calls = []
    measured = validate(lambda: calls.append(None))
    assert measured["validation/loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-5)
    expected = accuracy_score(labels.argmax(axis=1), logits.argmax(axis=1))
    assert measured["validation/accuracy"] == pytest.approx(expected)
    assert len(calls) == 3 and validate() == measured


def test_multi_label_metrics_equal_scikit_learn(corpus, crops):
    model = build_model(CONFIG, label_spec=LabelSpec(3, single_label=False))
    clips, labels = crops
    probabilities = 1 / (1 + np.exp(-model(clips, training=False).numpy().astype(np.float64)))
    measured = build_labelled_validation(model, corpus, CONFIG)()
    losses = [log_loss(labels[:, tag], probabilities[:, tag]) for tag in range(3)]
    assert measured["validation/loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    expected = average_precision_score(labels, probabilities, average="macro")
    assert measured["validation/average_precision"] == pytest.approx(expected)
