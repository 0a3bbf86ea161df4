"""The supervised objective: loss, dropout, metrics and classifier."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import log_loss

from clmr_tf.augment import AugmentationChain
from clmr_tf.config.augmentation import augmentation_preset
from clmr_tf.models.projector import build_classifier
from clmr_tf.models.sample_cnn import SampleCNN
from clmr_tf.train.step import SupervisedModel, classification_loss, drop

GENERATOR = np.random.default_rng(3)
SEEDS = tf.constant(GENERATOR.integers(-(2**31), 2**31, (400, 2)), tf.int32)


def test_single_label_loss_equals_scikit_learn():
    logits = GENERATOR.standard_normal((20, 4)) * 3
    classes = GENERATOR.integers(4, size=20)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    loss = classification_loss(tf.constant(logits), tf.constant(np.eye(4)[classes]), single_label=True)
    assert loss.numpy() == pytest.approx(log_loss(classes, probabilities, labels=range(4)), rel=1e-12)


def test_multi_label_loss_equals_scikit_learn_mean_over_tags():
    logits = GENERATOR.standard_normal((20, 4)) * 3
    labels = GENERATOR.integers(2, size=(20, 4)).astype(np.float64)
    probabilities = 1 / (1 + np.exp(-logits))
    expected = np.mean([log_loss(labels[:, tag], probabilities[:, tag], labels=[0, 1]) for tag in range(4)])
    loss = classification_loss(tf.constant(logits), tf.constant(labels), single_label=False)
    assert loss.numpy() == pytest.approx(expected, rel=1e-12)


def test_dropout_drops_its_fraction_and_rescales():
    dropped = drop(tf.ones([400, 512]), SEEDS, 0.3).numpy()
    assert sorted(set(dropped.ravel().tolist())) == [0.0, np.float32(1 / 0.7)]
    # With 204,800 draws, three standard deviations are 0.003.
    assert np.mean(dropped == 0) == pytest.approx(0.3, abs=0.003)
    # No unit and no row is dropped more often than by chance (6 standard deviations).
    assert np.abs((dropped == 0).mean(axis=0) - 0.3).max() < 6 * np.sqrt(0.21 / 400)
    assert np.abs((dropped == 0).mean(axis=1) - 0.3).max() < 6 * np.sqrt(0.21 / 512)


def test_dropout_of_a_row_depends_only_on_its_seed():
    vectors = tf.constant(GENERATOR.standard_normal((400, 64)), tf.float32)
    whole = drop(vectors, SEEDS, 0.5).numpy()
    rows = [7, 3, 399]
    np.testing.assert_array_equal(drop(tf.gather(vectors, rows), tf.gather(SEEDS, rows), 0.5).numpy(), whole[rows])
    assert np.mean((whole[0] == 0) == (whole[1] == 0)) < 0.8


@pytest.fixture(scope="module")
def model() -> SupervisedModel:
    model = SupervisedModel(
        SampleCNN(width=0.0625, seed=1),
        build_classifier(3, seed=1),
        AugmentationChain(augmentation_preset("none"), sample_rate_hz=22050),
        single_label=True,
    )
    model.build()
    return model


@pytest.fixture(scope="module")
def batch() -> dict[str, tf.Tensor]:
    clips = np.random.default_rng(5).uniform(-0.5, 0.5, (6, 1, 59049)).astype(np.float32)
    return {"clips": clips, "seeds": SEEDS[:6, tf.newaxis], "labels": np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]}


def score(model, batch, training):
    return model.loss_and_metrics(model.make_views(batch["clips"], batch["seeds"]), batch, training)


def test_loss_is_of_the_classifier_with_dropout_only_in_training(model, batch):
    kernel, bias = (weight.numpy().astype(np.float64) for weight in model.classifier.trainable_variables)
    h = model.encoder(batch["clips"][:, 0], training=False).numpy().astype(np.float64)
    loss, metrics = score(model, batch, training=False)
    logits = h @ kernel + bias
    assert float(loss) == pytest.approx(float(classification_loss(logits, batch["labels"], True)), rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx(np.mean(logits.argmax(axis=1) == [0, 1, 2, 0, 1, 2]))

    statistics = [variable.numpy() for variable in model.encoder.non_trainable_variables]
    loss, _ = score(model, batch, training=True)
    for variable, value in zip(model.encoder.non_trainable_variables, statistics, strict=True):
        variable.assign(value)
    h = model.encoder(batch["clips"][:, 0], training=True)
    for variable, value in zip(model.encoder.non_trainable_variables, statistics, strict=True):
        variable.assign(value)
    logits = drop(h, batch["seeds"][:, 0], 0.5).numpy().astype(np.float64) @ kernel + bias
    assert float(loss) == pytest.approx(float(classification_loss(logits, batch["labels"], True)), rel=1e-4)


def test_views_are_the_crops_without_augmentation(model, batch):
    np.testing.assert_array_equal(model.make_views(batch["clips"], batch["seeds"]), batch["clips"][:, 0])


def test_classifier_is_initialized_like_a_pytorch_linear_layer():
    kernel, bias = (weight.numpy() for weight in build_classifier(50, seed=4).trainable_variables)
    bound = 1 / np.sqrt(512)
    assert 0.99 * bound < np.abs(kernel).max() <= bound and 0.8 * bound < np.abs(bias).max() <= bound
    assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.02)
    again = build_classifier(50, seed=4).trainable_variables[0].numpy()
    np.testing.assert_array_equal(again, kernel)
    assert np.abs(build_classifier(50, seed=5).trainable_variables[0].numpy() - kernel).max() > 0.5 * bound
