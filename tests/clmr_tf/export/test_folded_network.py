"""The folded network gives what the encoder gives, at every sample rate."""

import numpy as np
import pytest

from clmr_tf.export.folded_network import FoldedNetwork
from clmr_tf.export.writing import golden_audio
from clmr_tf.models.sample_cnn import build_encoder


@pytest.mark.parametrize("sample_rate_hz", [22050, 16000, 8000])
def test_gives_what_the_encoder_gives(sample_rate_hz):
    encoder = build_encoder(width=0.0625, sample_rate_hz=sample_rate_hz, seed=1)
    generator = np.random.default_rng(0)
    for normalization in encoder.normalizations:
        shape = normalization.gamma.shape
        # Negative scales as well: behind them the greatest frame of a pooling was the least one.
        normalization.gamma.assign(generator.uniform(-1.5, 1.5, shape))
        normalization.beta.assign(generator.uniform(-0.3, 0.5, shape))
        normalization.moving_mean.assign(generator.uniform(-0.2, 0.2, shape))
        normalization.moving_variance.assign(generator.uniform(0.5, 2.0, shape))
    audio = golden_audio(encoder.clip_num_samples, sample_rate_hz)
    expected = encoder(audio).numpy()
    network = FoldedNetwork(encoder)
    received = network.function()(audio)["embedding"].numpy()
    assert expected.std() > 1e-3
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5 * expected.max())
    # All but the statistics, which are in the kernels and offsets now.
    assert network.num_weights == encoder.count_params() - 3 * sum(layer.offset.size for layer in network.layers)
