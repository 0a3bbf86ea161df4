"""The contrastive training step: views, gradient and metrics."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.augment import AugmentationChain
from clmr_tf.config.augmentation import augmentation_preset
from clmr_tf.config.train import TrainConfig
from clmr_tf.models.nt_xent import nt_xent
from clmr_tf.models.projector import build_projector
from clmr_tf.models.sample_cnn import SampleCNN
from clmr_tf.train.build import build_model
from clmr_tf.train.step import ContrastiveModel, WeightUpdate, direction_moments, direction_std


def make_model(
    preset: str = "only-gain", *, asymmetric: bool = False, optimizer: keras.Optimizer | None = None, **arguments
) -> ContrastiveModel:
    chain = AugmentationChain(dataclasses.replace(augmentation_preset(preset), asymmetric=asymmetric))
    model = ContrastiveModel(SampleCNN(width=0.0625, seed=1), build_projector(seed=1), chain, **arguments)
    model.build()
    optimizer = optimizer or keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    model.compile(WeightUpdate(optimizer, model.trainable_variables))
    return model


def make_batch(num_pairs: int = 6) -> dict[str, tf.Tensor]:
    generator = np.random.default_rng(0)
    clips = generator.uniform(-0.5, 0.5, (num_pairs, 2, 59049)).astype(np.float32)
    seeds = generator.integers(0, 2**31, (num_pairs, 2, 2), np.int32)
    return {"clips": tf.constant(clips), "seeds": tf.constant(seeds), "item": tf.range(num_pairs)}


def test_views_are_augmented_clips_in_interleaved_pairs():
    model, batch = make_model(), make_batch()
    views = model.make_views(batch["clips"], batch["seeds"]).numpy()
    for pair in range(6):
        for view in range(2):
            alone = model.augmentation(batch["clips"][pair, view][None], batch["seeds"][pair, view][None])
            np.testing.assert_array_equal(views[2 * pair + view], alone[0])
            assert np.abs(views[2 * pair + view] - batch["clips"][pair, view]).max() > 0.01


def test_asymmetric_mode_leaves_second_views_unaugmented():
    model, batch = make_model(asymmetric=True), make_batch()
    views = model.make_views(batch["clips"], batch["seeds"]).numpy()
    assert (np.abs(views[0::2] - batch["clips"][:, 0]).max(axis=1) > 0.01).all()
    np.testing.assert_array_equal(views[1::2], batch["clips"][:, 1])


def test_step_descends_the_gradient_of_nt_xent():
    model, batch = make_model(optimizer=keras.optimizers.SGD(0.1)), make_batch()
    with tf.GradientTape() as tape:
        views = model.make_views(batch["clips"], batch["seeds"])
        z = model.projector(model.encoder(views, training=True), training=True)
        loss = nt_xent(z[0::2], z[1::2], 0.5)
    gradients = tape.gradient(loss, model.trainable_variables)
    before = [variable.numpy() for variable in model.trainable_variables]
    metrics = model.train_step(batch)
    for variable, start, gradient in zip(model.trainable_variables, before, gradients, strict=True):
        np.testing.assert_allclose(variable.numpy(), start - 0.1 * gradient.numpy(), rtol=1e-4, atol=1e-6)
    norm = np.sqrt(sum(np.sum(gradient.numpy() ** 2) for gradient in gradients))
    assert metrics["gradient_norm"].numpy() == pytest.approx(norm, rel=1e-4)
    assert metrics["loss"].numpy() == pytest.approx(loss.numpy(), rel=1e-5)


@pytest.mark.soak
def test_overfitting_one_batch_lowers_loss_and_finds_positives():
    model = make_model(preset="none", optimizer=keras.optimizers.Adam(1e-3))
    batch = make_batch(8)
    # Both views of a pair are the same crop, so the pairs can be told apart.
    batch["clips"] = tf.repeat(batch["clips"][:, :1], 2, axis=1) * tf.reshape(tf.linspace(0.1, 1.0, 8), [8, 1, 1])
    step = tf.function(model.train_step)
    first = step(batch)
    for _ in range(30):
        last = step(batch)
    assert last["loss"] < first["loss"] - 0.3
    assert last["contrastive_accuracy"] == 1.0


@pytest.mark.soak
def test_keras_fit_runs_the_same_step():
    batch = make_batch()
    one, other = make_model(), make_model()
    one.train_step(batch)
    other.fit(tf.data.Dataset.from_tensors(batch), shuffle=False, verbose=0)
    for a, b in zip(one.trainable_variables, other.trainable_variables, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-6)


def test_xla_compiled_views_have_the_same_statistics():
    # The values differ: XLA draws other numbers from the same seed on a CPU.
    batch = make_batch(40)
    levels = []
    for jit_views in (False, True):
        views = make_model(jit_views=jit_views).make_views(batch["clips"], batch["seeds"]).numpy()[0::2]
        levels.append(20 * np.log10(views.std(axis=1) / batch["clips"][:, 0].numpy().std(axis=1)))
    for level in levels:
        # Gain is uniform between -20 and -1 dB: mean -10.5 within 3 standard errors of 5.5 / sqrt(40).
        assert abs(level.mean() + 10.5) < 2.7
        assert level.min() > -20.01 and level.max() < -0.99


def std_of(*parts: np.ndarray) -> float:
    """Returns the standard deviation of a batch with each part on its own replica."""
    return float(direction_std(tf.reduce_mean([direction_moments(tf.constant(part)) for part in parts], axis=0)))


def test_std_is_one_for_random_directions_and_zero_after_collapse():
    generator = np.random.default_rng(0)
    random = generator.standard_normal((2000, 64)).astype(np.float32)
    assert std_of(random) == pytest.approx(1.0, abs=0.01)
    collapsed = generator.uniform(0.5, 2, (2000, 1)).astype(np.float32) * random[:1]
    assert std_of(collapsed) == pytest.approx(0.0, abs=1e-3)
    assert std_of(collapsed[:1000], collapsed[1000:]) == pytest.approx(0.0, abs=3e-3)


def test_std_over_replicas_equals_std_of_the_whole_batch():
    generator = np.random.default_rng(1)
    # The vectors are similar, and more so within each half.
    vectors = (1 + 0.2 * generator.standard_normal((40, 64)) + np.arange(40)[:, None] // 20 * 0.3).astype(np.float32)
    vectors[:, :32] += 0.5
    directions = vectors.astype(np.float64) / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = directions.std(axis=0).mean() * np.sqrt(64)
    for num_parts in (1, 2, 4):
        assert std_of(*np.split(vectors, num_parts)) == pytest.approx(expected, rel=1e-4)


def test_build_model_follows_the_configuration():
    model = build_model(
        TrainConfig(width=0.125, learning_rate=0.01, temperature=0.2, seed=5, optimizer="sgd").resolved()
    )
    again = build_model(TrainConfig(width=0.125, seed=5).resolved())
    assert model.temperature == 0.2
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
    assert model.encoder.convolutions[0].filters == 16
    for one, other in zip(model.variables, again.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
