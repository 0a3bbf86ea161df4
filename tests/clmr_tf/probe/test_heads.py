"""Heads on features whose best possible score is known, and their steps against Adam in float64."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from sklearn.preprocessing import StandardScaler

from clmr_tf.errors import ClmrError
from clmr_tf.probe import heads
from clmr_tf.probe.heads import Fit, adam_steps, cross_entropy, fit_head, majority_head
from clmr_tf.probe.protocols import PROTOCOLS, HeadSettings, grid_of_heads

RELEASED = PROTOCOLS["released"].head


def gaussians(seed: int, num_examples: int, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Two Gaussian classes in eight dimensions, `distance` standard deviations apart: features, one-hot labels."""
    generator = np.random.default_rng(seed)
    classes = generator.integers(2, size=num_examples)
    features = generator.standard_normal((num_examples, 8)) + np.outer(classes - 0.5, np.full(8, distance / np.sqrt(8)))
    return features.astype(np.float32), np.eye(2, dtype=np.float32)[classes]


def xor(seed: int, num_examples: int) -> tuple[np.ndarray, np.ndarray]:
    """A tag where two of eight signs agree, which is not linear: features, labels [examples, 1]."""
    features = np.random.default_rng(seed).standard_normal((num_examples, 8)).astype(np.float32)
    return features, (features[:, :1] * features[:, 1:2] > 0).astype(np.float32)


def accuracy_of(fit: Fit, features: np.ndarray, labels: np.ndarray) -> float:
    logits = fit.head.logits(features)
    right = logits.argmax(axis=1) == labels.argmax(axis=1) if labels.shape[1] > 1 else (logits > 0) == (labels > 0)
    return float(right.mean())


@pytest.mark.parametrize("hidden_units", [0, 32])
def test_gaussian_classes_are_classified_with_the_optimal_accuracy(hidden_units):
    settings = dataclasses.replace(RELEASED, hidden_units=hidden_units, max_epochs=30)
    fit = fit_head(*gaussians(0, 4000, 2.0), *gaussians(1, 2000, 2.0), settings, single_label=True, seed=0)
    optimum = stats.norm.cdf(1.0)
    # Three standard errors of 20,000 examples, and the estimation error of 4,000.
    assert accuracy_of(fit, *gaussians(2, 20_000, 2.0)) == pytest.approx(
        optimum, abs=0.008 + 0.006 * (hidden_units > 0)
    )


def test_only_a_hidden_layer_learns_what_is_not_linear():
    settings = dataclasses.replace(RELEASED, max_epochs=40)
    wide = dataclasses.replace(settings, hidden_units=64)
    linear, mlp = (fit_head(*xor(0, 3000), *xor(1, 500), one, single_label=False, seed=0) for one in (settings, wide))
    test = xor(2, 4000)
    assert accuracy_of(linear, *test) < 0.56
    assert accuracy_of(mlp, *test) > 0.93


def adam_by_hand(features, labels, batches, weights, settings, single_label):
    """torch.optim.Adam with weight decay on a linear head or one of two layers, in float64, one example at a time."""
    weights = [weight.astype(np.float64) for weight in weights]
    first, second = ([np.zeros_like(weight) for weight in weights] for _ in range(2))
    for count, rows in enumerate(batches, 1):
        gradients = [settings.weight_decay * weight for weight in weights]
        for row in rows:
            x, y = features[row].astype(np.float64), labels[row]
            before = x @ weights[0] + weights[1] if len(weights) == 4 else None
            hidden = x if before is None else np.maximum(before, 0)
            logits = hidden @ weights[-2] + weights[-1]
            if single_label:
                slope = np.exp(logits) / np.exp(logits).sum() - y
            else:
                slope = (1 / (1 + np.exp(-logits)) - y) / len(y)
            slope = slope / len(rows)
            gradients[-2] += np.outer(hidden, slope)
            gradients[-1] += slope
            if before is not None:
                inner = (weights[-2] @ slope) * (before > 0)
                gradients[0] += np.outer(x, inner)
                gradients[1] += inner
        for weight, gradient, mean, square in zip(weights, gradients, first, second, strict=True):
            mean[:] = 0.9 * mean + 0.1 * gradient
            square[:] = 0.999 * square + 0.001 * gradient**2
            step = np.sqrt(square / (1 - 0.999**count)) + 1e-8
            weight[...] -= settings.learning_rate * mean / (1 - 0.9**count) / step
    return weights


@pytest.mark.parametrize("single_label", [True, False])
@pytest.mark.parametrize("hidden_units", [0, 5])
def test_steps_equal_adam_on_every_example_once_per_epoch(hidden_units, single_label, monkeypatch):
    generator = np.random.default_rng(0)
    features = generator.standard_normal((11, 3)).astype(np.float32)
    labels = np.eye(4, dtype=np.float32)[generator.integers(4, size=11)]
    settings = HeadSettings(
        hidden_units=hidden_units, batch_size=4, learning_rate=0.01, weight_decay=0.1, max_epochs=2, patience=99
    )
    drawn, initial = [], []
    batches_of, weights_of = heads._batches, heads._initial_weights

    def spied_batches(*arguments):
        for rows in batches_of(*arguments):
            drawn.append(rows[rows >= 0])
            yield rows

    def spied_weights(*arguments):
        initial.extend(weights_of(*arguments))
        return tuple(initial)

    monkeypatch.setattr(heads, "_batches", spied_batches)
    monkeypatch.setattr(heads, "_initial_weights", spied_weights)
    fit = fit_head(features, labels, features, labels, settings, single_label=single_label, seed=5)
    assert fit.num_steps == fit.best_step == 6
    for epoch in (drawn[:3], drawn[3:]):
        assert sorted(np.concatenate(epoch)) == list(range(11)) and [len(rows) for rows in epoch] == [4, 4, 3]
    assert not np.array_equal(np.concatenate(drawn[:3]), np.concatenate(drawn[3:]))
    expected = adam_by_hand(features, labels, drawn, initial, settings, single_label)
    for received, wanted in zip(fit.head.weights, expected, strict=True):
        np.testing.assert_allclose(received, wanted, atol=2e-6)


def test_heads_are_bit_identical_for_the_same_seed_only():
    settings = HeadSettings(hidden_units=16, batch_size=16, dropout=0.5, max_epochs=5)
    data = (*gaussians(0, 100, 2.0), *gaussians(1, 50, 2.0))
    one, same, other = (fit_head(*data, settings, single_label=True, seed=seed) for seed in (1, 1, 2))
    for left, right in zip(one.head.weights, same.head.weights, strict=True):
        np.testing.assert_array_equal(left, right)
    assert not np.array_equal(one.head.weights[0], other.head.weights[0])


def test_the_best_weights_are_kept_and_patience_ends_the_training():
    """With 20 examples and large steps, the validation loss soon rises."""
    settings = HeadSettings(batch_size=8, learning_rate=0.3, patience=4, max_epochs=500)
    valid = gaussians(1, 200, 1.0)
    fit = fit_head(*gaussians(0, 20, 1.0), *valid, settings, single_label=True, seed=0)
    assert fit.num_steps == fit.best_step + 4 * 3
    assert cross_entropy(fit.head.logits(valid[0]), valid[1], True) == pytest.approx(fit.best_value, rel=1e-9)


def test_validation_may_happen_between_epochs_and_by_another_metric():
    settings = HeadSettings(
        batch_size=16, monitor="accuracy", steps_between_measurements=8, patience=5, max_epochs=0, learning_rate=0.01
    )
    valid = gaussians(1, 200, 3.0)
    fit = fit_head(*gaussians(0, 1000, 3.0), *valid, settings, single_label=True, seed=0)
    assert fit.num_steps == fit.best_step + 5 * 8 and fit.best_step % 8 == 0
    assert accuracy_of(fit, *valid) == fit.best_value > 0.9


def test_standardising_equals_scikit_learn_also_for_a_constant_feature():
    features, labels = gaussians(0, 60, 2.0)
    features = features * np.arange(8, dtype=np.float32) + 100
    settings = HeadSettings(standardise=True, max_epochs=1)
    head = fit_head(features, labels, features, labels, settings, single_label=True, seed=0).head
    expected = StandardScaler().fit_transform(features.astype(np.float64))
    np.testing.assert_allclose((features - head.mean) / head.standard_deviation, expected, atol=2e-4)


def test_dropout_drops_half_and_keeps_the_expectation():
    """With weights of zero, the gradient is proportional to the inputs."""
    inputs, targets = tf.constant([[1.0, 2.0, -3.0]]), tf.constant([[1.0, 0.0]])
    weights = [tf.zeros([3, 2]), tf.zeros([2])]
    moments = []
    for seed in range(400):
        _, first, _ = adam_steps(
            weights,
            weights,
            weights,
            inputs,
            targets,
            tf.constant([[0]]),
            tf.constant(0),
            tf.constant(0.1),
            tf.constant(0.0),
            tf.constant(0.5),
            tf.constant(seed, tf.int64),
            single_label=True,
            drops=True,
        )
        moments.append(first[0].numpy())
    full = 0.1 * np.outer(inputs[0], [-0.5, 0.5])
    ratios = np.array(moments) / full
    assert set(np.round(ratios, 5).ravel()) == {0.0, 2.0}
    # The mean of 400 draws of 0 or 2 is 1 with a standard deviation of 0.05.
    np.testing.assert_allclose(ratios.mean(axis=0), 1, atol=0.2)
    assert abs(np.corrcoef(ratios[:, 0, 0], ratios[:, 1, 0])[0, 1]) < 0.2


def test_features_that_are_not_finite_are_refused():
    features, labels = gaussians(0, 50, 2.0)
    features[3, 2] = np.nan
    with pytest.raises(ClmrError, match="logits of a head are not finite"):
        fit_head(features, labels, features, labels, RELEASED, single_label=True, seed=0)


def test_a_validation_split_that_cannot_be_scored_is_refused():
    features, labels = gaussians(0, 50, 2.0)
    settings = HeadSettings(monitor="roc_auc")
    with pytest.raises(ClmrError, match="No tag of the validation split"):
        fit_head(features, labels, features, np.zeros_like(labels), settings, single_label=False, seed=0)


def test_the_majority_head_gives_the_frequencies_of_the_tags():
    labels = np.array([[1, 0], [1, 0], [0, 1], [1, 0]], np.float32)
    nothing = np.zeros((3, 0), np.float32)
    single = majority_head(labels, single_label=True).logits(nothing)
    several = majority_head(labels, single_label=False).logits(nothing)
    np.testing.assert_allclose(np.exp(single), np.tile([3.5 / 5, 1.5 / 5], (3, 1)), rtol=1e-6)
    np.testing.assert_allclose(1 / (1 + np.exp(-several)), np.tile([3.5 / 5, 1.5 / 5], (3, 1)), rtol=1e-6)


def test_the_grid_has_216_distinct_heads():
    grid = grid_of_heads(single_label=False)
    assert len(grid) == len(set(grid)) == 216
    assert {(one.patience, one.steps_between_measurements, one.max_epochs) for one in grid} == {(256, 8, 0)}
    assert {one.monitor for one in grid} == {"roc_auc"}
    assert {one.monitor for one in grid_of_heads(single_label=True)} == {"accuracy"}
