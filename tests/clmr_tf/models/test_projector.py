"""The projector: two matrix products and a ReLU."""

import numpy as np

from clmr_tf.models.heads import build_projector


def test_is_linear_relu_linear_without_biases():
    projector = build_projector(seed=1)
    hidden, projection = (layer.kernel.numpy().astype(np.float64) for layer in projector.layers)
    assert hidden.shape == (512, 512)
    assert projection.shape == (512, 64)
    assert len(projector.variables) == 2
    h = np.random.default_rng(0).standard_normal((5, 512)).astype(np.float32)
    expected = np.maximum(h @ hidden, 0) @ projection
    np.testing.assert_allclose(projector(h).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_weights_start_uniform_within_one_over_the_root_of_the_inputs():
    for layer in build_projector(seed=1).layers:
        kernel = layer.kernel.numpy()
        limit = 1 / np.sqrt(512)
        assert 0.99 * limit < np.abs(kernel).max() <= limit
        assert abs(np.std(kernel) / (limit / np.sqrt(3)) - 1) < 0.02
