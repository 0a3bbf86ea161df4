"""The loss against the original's numbers, the paper's formula and closed forms, on one and on two replicas."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.models.nt_xent import nt_xent, nt_xent_with_accuracy
from clmr_tf.train.distribution import build_strategy
from tests.reference.nt_xent import nt_xent as slow_nt_xent

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "reference_nt_xent.npz")


def random_pairs(num_pairs: int, dimensions: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    z_i = generator.standard_normal((num_pairs, dimensions)).astype(np.float32)
    return z_i, (z_i + generator.standard_normal((num_pairs, dimensions))).astype(np.float32)


def value_and_gradients(z_i, z_j, temperature):
    z_i, z_j = tf.constant(z_i), tf.constant(z_j)
    with tf.GradientTape() as tape:
        tape.watch([z_i, z_j])
        loss = nt_xent(z_i, z_j, temperature)
    return loss.numpy(), *(gradient.numpy() for gradient in tape.gradient(loss, [z_i, z_j]))


@pytest.mark.parametrize("case", range(4))
def test_equals_the_original_code_in_value_and_both_gradients(case):
    expected = [GOLDEN[f"c{case}_{name}"] for name in ("loss", "dzi", "dzj")]
    received = value_and_gradients(GOLDEN[f"c{case}_zi"], GOLDEN[f"c{case}_zj"], float(GOLDEN[f"c{case}_temperature"]))
    for one, other in zip(received, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.max(np.abs(other)))


@pytest.mark.parametrize("num_pairs", [2, 5, 16])
@pytest.mark.parametrize("dimensions", [2, 64])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_equals_the_formula_of_the_paper(num_pairs, dimensions, temperature):
    z_i, z_j = random_pairs(num_pairs, dimensions)
    assert nt_xent(z_i, z_j, temperature).numpy() == pytest.approx(
        slow_nt_xent(z_i, z_j, temperature), rel=1e-5, abs=1e-6
    )


@pytest.mark.parametrize("num_pairs", [2, 7, 48])
def test_parallel_projections_have_a_closed_form(num_pairs):
    z = np.tile(np.float32([[3.0, 4.0]]), (num_pairs, 1))
    assert nt_xent(z, 2 * z, 0.5).numpy() == pytest.approx(np.log(2 * num_pairs - 1), rel=1e-6)


def test_orthogonal_pairs_have_a_closed_form():
    # Positives are identical, negatives orthogonal: log(1 + (2N - 2) exp(-1/T)).
    z, temperature = np.eye(6, dtype=np.float32), 0.5
    expected = np.log1p(10 * np.exp(-1 / temperature))
    loss, accuracy = nt_xent_with_accuracy(z, z, temperature)
    assert loss.numpy() == pytest.approx(expected, rel=1e-6)
    assert accuracy.numpy() == 1.0


def test_loss_is_invariant_to_swapped_views_order_and_length():
    z_i, z_j = random_pairs(9, 8)
    order = np.random.default_rng(1).permutation(9)
    lengths = np.random.default_rng(2).uniform(0.1, 10, (9, 1)).astype(np.float32)
    loss = nt_xent(z_i, z_j, 0.5).numpy()
    assert nt_xent(z_j, z_i, 0.5).numpy() == pytest.approx(loss, rel=1e-6)
    assert nt_xent(z_i[order], z_j[order], 0.5).numpy() == pytest.approx(loss, rel=1e-6)
    assert nt_xent(z_i * lengths, z_j, 0.5).numpy() == pytest.approx(loss, rel=1e-6)


def test_accuracy_counts_anchors_whose_positive_is_nearest():
    z_i, z_j = random_pairs(20, 3, seed=4)
    vectors = np.concatenate([z_i, z_j]).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarities = vectors @ vectors.T
    np.fill_diagonal(similarities, -np.inf)
    expected = np.mean(similarities.argmax(axis=1) == (np.arange(40) + 20) % 40)
    assert 0 < expected < 1
    assert nt_xent_with_accuracy(z_i, z_j, 0.5)[1].numpy() == pytest.approx(expected)


def test_low_precision_projections_are_scored_in_float32():
    z_i, z_j = (tf.cast(z, tf.bfloat16) for z in random_pairs(8, 64))
    loss = nt_xent(z_i, z_j, 0.5)
    expected = slow_nt_xent(tf.cast(z_i, tf.float32).numpy(), tf.cast(z_j, tf.float32).numpy(), 0.5)
    assert loss.dtype == tf.float32
    assert loss.numpy() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_projection_of_zeros_gives_finite_numbers():
    z_i, z_j = random_pairs(4, 8)
    z_i[0] = 0.0
    assert all(np.isfinite(value).all() for value in value_and_gradients(z_i, z_j, 0.5))


@pytest.mark.parametrize("temperature", [1e-6, 1e-12, 1e-30])
def test_low_temperatures_do_not_make_an_anchor_its_own_positive(temperature):
    """In this limit the loss is the similarity of the nearest other projection minus that of the positive."""
    z_i, z_j = random_pairs(4, 8)
    vectors = np.stack([z_i, z_j], axis=1).reshape(8, 8).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarities = vectors @ vectors.T
    np.fill_diagonal(similarities, -np.inf)
    positives = similarities[np.arange(8), np.arange(8) ^ 1]
    expected = np.mean(similarities.max(axis=1) - positives) / temperature
    loss, *gradients = value_and_gradients(z_i, z_j, temperature)
    assert expected > 0 and loss == pytest.approx(expected, rel=1e-4)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_two_replicas_give_the_loss_and_gradient_of_one():
    z_i, z_j = random_pairs(8, 16)
    expected_loss, expected_gradient, _ = value_and_gradients(z_i, z_j, 0.5)
    strategy = build_strategy("mirrored", 2)

    @tf.function
    def on_replica(rows_i, rows_j):
        with tf.GradientTape() as tape:
            tape.watch(rows_i)
            loss = nt_xent(rows_i, rows_j, 0.5)
        return loss, tape.gradient(loss, rows_i)

    def shard(z):
        def of(context):
            first = 4 * context.replica_id_in_sync_group
            return tf.constant(z[first : first + 4])

        return strategy.experimental_distribute_values_from_function(of)

    losses, gradients = strategy.run(on_replica, args=(shard(z_i), shard(z_j)))
    # The mean over replicas of the local means is the mean over all anchors, so the gradients are halved.
    assert np.mean([loss.numpy() for loss in losses.values]) == pytest.approx(expected_loss, rel=1e-6)
    received = np.concatenate([gradient.numpy() for gradient in gradients.values]) / 2
    np.testing.assert_allclose(received, expected_gradient, rtol=1e-5, atol=1e-7)
