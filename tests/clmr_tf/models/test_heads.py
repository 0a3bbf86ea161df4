"""The projector, and trained heads and their files."""

import itertools

import numpy as np
import pytest

from clmr_tf.files import UnreadableArraysError
from clmr_tf.models.heads import Head, probabilities
from clmr_tf.models.projector import build_classifier, build_projector


def test_projector_is_linear_relu_linear_without_biases():
    projector = build_projector(seed=1)
    hidden, projection = (layer.kernel.numpy().astype(np.float64) for layer in projector.layers)
    assert hidden.shape == (512, 512)
    assert projection.shape == (512, 64)
    assert len(projector.variables) == 2
    h = np.random.default_rng(0).standard_normal((5, 512)).astype(np.float32)
    expected = np.maximum(h @ hidden, 0) @ projection
    np.testing.assert_allclose(projector(h).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_initial_weights_of_the_projector_are_those_of_pytorch():
    for layer in build_projector(seed=1).layers:
        kernel = layer.kernel.numpy()
        limit = 1 / np.sqrt(512)
        assert 0.99 * limit < np.abs(kernel).max() <= limit
        assert abs(np.std(kernel) / (limit / np.sqrt(3)) - 1) < 0.02


def head_of(*sizes: int) -> Head:
    generator = np.random.default_rng(5)
    shapes = [shape for fan_in, fan_out in itertools.pairwise(sizes) for shape in ((fan_in, fan_out), fan_out)]
    mean, deviation = generator.normal(size=sizes[0]), generator.uniform(0.5, 2, sizes[0])
    arrays = [mean, deviation, *(generator.normal(size=shape) for shape in shapes)]
    mean, deviation, *weights = (array.astype(np.float32) for array in arrays)
    return Head(mean, deviation, tuple(weights))


@pytest.mark.parametrize("sizes", [(3, 2), (3, 4, 2)])
def test_logits_equal_the_formula_and_files_are_read_back(sizes, tmp_path):
    head = head_of(*sizes)
    features = np.random.default_rng(6).normal(size=(7, 3)).astype(np.float32)
    head.save(tmp_path / "head.npz")
    again = Head.load(tmp_path / "head.npz")
    assert (again.num_features, again.num_outputs) == (3, 2)
    np.testing.assert_array_equal(again.logits(features), head.logits(features))
    for vector, logits in zip(features, head.logits(features), strict=True):
        hidden = [(vector[k] - head.mean[k]) / head.standard_deviation[k] for k in range(3)]
        for layer in range(len(sizes) - 1):
            matrix, offset = head.weights[2 * layer : 2 * layer + 2]
            hidden = [max(value, 0.0) for value in hidden] if layer else hidden
            hidden = [
                sum(value * matrix[k, out] for k, value in enumerate(hidden)) + offset[out]
                for out in range(sizes[layer + 1])
            ]
        np.testing.assert_allclose(logits, hidden, rtol=1e-4, atol=1e-5)


def test_inconsistent_layers_are_rejected(tmp_path):
    head = head_of(3, 4, 2)
    Head(head.mean, head.standard_deviation, (*head.weights[:2], *head_of(3, 2).weights)).save(tmp_path / "head.npz")
    with pytest.raises(UnreadableArraysError, match="its layers do not match"):
        Head.load(tmp_path / "head.npz")


def test_probabilities_of_large_logits_do_not_overflow():
    logits = np.array([[-1e4, 0.0, 1e4]])
    np.testing.assert_array_equal(probabilities(logits, False), [[0, 0.5, 1]])
    np.testing.assert_array_equal(probabilities(logits, True), [[0, 0, 1]])


def test_classifier_is_linear_with_initial_weights_of_pytorch():
    classifier = build_classifier(50, seed=1)
    kernel, bias = (variable.numpy().astype(np.float64) for variable in classifier.variables)
    for values in (kernel, bias):
        assert 0.9 < np.abs(values).max() * np.sqrt(512) <= 1
    h = np.random.default_rng(0).standard_normal((5, 512)).astype(np.float32)
    np.testing.assert_allclose(classifier(h).numpy(), h @ kernel + bias, rtol=1e-4, atol=1e-5)


def test_files_of_other_dtypes_are_rejected(tmp_path):
    head = head_of(3, 2)
    Head(head.mean, head.standard_deviation, tuple(w.astype(np.int32) for w in head.weights)).save(
        tmp_path / "head.npz"
    )
    with pytest.raises(UnreadableArraysError, match="not the float arrays"):
        Head.load(tmp_path / "head.npz")
