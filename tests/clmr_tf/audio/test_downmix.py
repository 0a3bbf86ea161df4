"""Weights of channels against ITU-R BS.775."""

import numpy as np
import pytest

from clmr_tf.audio.downmix import mono_weights

CENTRE, SURROUND = 0.70710678, 0.35355339


@pytest.mark.parametrize(
    "expected",
    [
        [1],
        [0.5, 0.5],
        [0.5, 0.5, 0],
        [0.5, 0.5, CENTRE, 0.5],
        [0.5, 0.5, CENTRE, SURROUND, SURROUND],
        [0.5, 0.5, CENTRE, 0, SURROUND, SURROUND],
        [0.5, 0.5, CENTRE, 0, 0.5, SURROUND, SURROUND],
        [0.5, 0.5, CENTRE, 0, SURROUND, SURROUND, SURROUND, SURROUND],
        [1 / 9] * 9,
        [1 / 24] * 24,
    ],
    ids=len,
)
def test_weights_of_channels(expected):
    weights = mono_weights(len(expected))
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, expected, atol=1e-7)


def test_a_front_pair_is_as_loud_as_stereo():
    pair = np.random.default_rng(1).standard_normal((1000, 2)).astype(np.float32)
    surround = np.concatenate([pair, np.zeros((1000, 4), np.float32)], axis=1)
    np.testing.assert_allclose(surround @ mono_weights(6), pair.mean(axis=1), atol=1e-6)
