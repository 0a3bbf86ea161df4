"""What a head computes, and that its file comes back as it was or is refused."""

import itertools

import numpy as np
import pytest

from clmr_tf.files import UnreadableArraysError
from clmr_tf.models.heads import Head, probabilities


def head_of(*sizes: int) -> Head:
    generator = np.random.default_rng(5)
    shapes = [shape for fan_in, fan_out in itertools.pairwise(sizes) for shape in ((fan_in, fan_out), fan_out)]
    mean, deviation = generator.normal(size=sizes[0]), generator.uniform(0.5, 2, sizes[0])
    arrays = [mean, deviation, *(generator.normal(size=shape) for shape in shapes)]
    mean, deviation, *weights = (array.astype(np.float32) for array in arrays)
    return Head(mean, deviation, tuple(weights))


@pytest.mark.parametrize("sizes", [(3, 2), (3, 4, 2)])
def test_logits_are_those_of_the_formula_and_survive_the_file(sizes, tmp_path):
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


def test_layers_that_do_not_fit_together_are_refused(tmp_path):
    head = head_of(3, 4, 2)
    Head(head.mean, head.standard_deviation, (*head.weights[:2], *head_of(3, 2).weights)).save(tmp_path / "head.npz")
    with pytest.raises(UnreadableArraysError, match="do not fit together"):
        Head.load(tmp_path / "head.npz")


def test_probabilities_of_large_logits_do_not_overflow():
    logits = np.array([[-1e4, 0.0, 1e4]])
    np.testing.assert_array_equal(probabilities(logits, False), [[0, 0.5, 1]])
    np.testing.assert_array_equal(probabilities(logits, True), [[0, 0, 1]])
