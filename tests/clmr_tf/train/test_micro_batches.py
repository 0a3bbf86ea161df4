"""Micro-batches and two passes compared with separate computations in float64."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.augment import AugmentationChain
from clmr_tf.config.augmentation import augmentation_preset
from clmr_tf.models.clip_encoder import dtype_policy
from clmr_tf.models.projector import build_projector
from clmr_tf.models.sample_cnn import SampleCNN
from clmr_tf.train.step import ContrastiveModel

NUM_PAIRS = 4


class HandedOver:
    """Stands for the weight update and returns the gradients that it receives."""

    def scale_loss(self, loss):
        return loss

    def __call__(self, gradients, metrics):
        return {**metrics, "gradients": gradients}


def make_model(**arguments) -> ContrastiveModel:
    chain = AugmentationChain(dataclasses.replace(augmentation_preset("only-gain")))
    with dtype_policy("float64"):
        encoder, projector = SampleCNN(width=0.0625, seed=1), build_projector(seed=1)
        model = ContrastiveModel(encoder, projector, chain, **arguments)
        model.build()
    model.weight_update = HandedOver()
    return model


@pytest.fixture(scope="module")
def batch():
    generator = np.random.default_rng(0)
    clips = generator.uniform(-0.5, 0.5, (NUM_PAIRS, 2, 59049)).astype(np.float32)
    seeds = generator.integers(0, 2**31, (NUM_PAIRS, 2, 2), np.int32)
    return {"clips": tf.constant(clips), "seeds": tf.constant(seeds)}


def loss_by_hand(z: tf.Tensor) -> tf.Tensor:
    """Returns NT-Xent at temperature 0.5; rows alternate between the two views."""
    z = z / tf.norm(z, axis=1, keepdims=True)
    similarities = tf.exp(tf.matmul(z, z, transpose_b=True) / 0.5) * (1 - np.eye(len(z)))
    anchors = np.arange(len(z))
    positives = tf.gather_nd(similarities, np.stack([anchors, anchors ^ 1], axis=1))
    return -tf.reduce_mean(tf.math.log(positives / tf.reduce_sum(similarities, axis=1)))


def gradients_by_hand(model: ContrastiveModel, views: tf.Tensor) -> tuple[list[np.ndarray], float]:
    with tf.GradientTape() as tape:
        loss = loss_by_hand(model.projector(model.encoder(views, training=True), training=True))
    return [gradient.numpy() for gradient in tape.gradient(loss, model.trainable_variables)], float(loss)


def test_micro_batch_gradient_is_mean_over_parts_with_own_negatives(batch):
    model, reference = make_model(num_micro_batches=2), make_model()
    metrics = tf.function(model.train_step)(batch)
    gradients = metrics["gradients"]
    parts = []
    for start in range(0, NUM_PAIRS, 2):
        views = reference.make_views(batch["clips"][start : start + 2], batch["seeds"][start : start + 2])
        parts.append(gradients_by_hand(reference, views))
    expected = [np.mean(each, axis=0) for each in zip(*(gradients for gradients, _ in parts), strict=True)]
    for gradient, value in zip(gradients, expected, strict=True):
        assert gradient.dtype == tf.float64
        np.testing.assert_allclose(gradient, value, rtol=1e-8, atol=1e-12)
    assert float(metrics["loss"]) == pytest.approx(np.mean([loss for _, loss in parts]), rel=1e-9)
    # The parts update the running statistics one after the other.
    for variable, other in zip(model.encoder.variables, reference.encoder.variables, strict=True):
        np.testing.assert_allclose(variable.numpy(), other.numpy(), rtol=1e-9)
    whole, loss = gradients_by_hand(make_model(), reference.make_views(batch["clips"], batch["seeds"]))
    assert loss > float(metrics["loss"]) + 0.3
    assert np.linalg.norm(whole[0] - expected[0]) > 0.1 * np.linalg.norm(whole[0])


def test_two_passes_encode_first_and_second_views_separately(batch):
    two, one, reference = make_model(two_passes=True), make_model(), make_model()
    views = two.make_views(batch["clips"], batch["seeds"])
    received = two.encode(views, training=True).numpy()
    for number in (0, 1):
        expected = reference.encoder(views[number::2], training=True).numpy()
        np.testing.assert_allclose(received[number::2], expected, rtol=1e-10, atol=1e-14)
    # One pass differs only in its batch statistics.
    in_one = one.encode(views, training=True).numpy()
    assert np.abs(in_one - received).max() > 1e-3 * np.abs(received).max()
    for variable, other in zip(one.encoder.variables, two.encoder.variables, strict=True):
        variable.assign(other)
    np.testing.assert_allclose(
        one.encode(views, training=False).numpy(), two.encode(views, training=False).numpy(), rtol=1e-9, atol=1e-14
    )
