"""TUNe+ and Tail+5 against a NumPy transcription of the paper's table."""

import numpy as np
import pytest

from clmr_tf.models.clip_encoder import CLIP_NUM_SAMPLES
from clmr_tf.models.encoders import build_encoder
from tests.reference.random_weights import normalization_of, randomize
from tests.reference.tune import tune

# Of c1 to c18.
LENGTHS = {
    22050: [59049, 19683, 6561, 2187, 729, 2187, 6561, 19683, 59049, 19683, 6561, 2187, 729, 243, 81, 27, 9, 3],
    # 27 zeros make a multiple of 81.
    16000: [43497, 14499, 4833, 1611, 537, 1611, 4833, 14499, 43497, 14499, 4833, 1611, 537, 179, 59, 19, 6, 2],
    8000: [20736, 6912, 2304, 768, 256, 768, 2304, 6912, 20736, 6912, 2304, 768, 256, 85, 28, 9, 3, 1],
}


@pytest.mark.parametrize(
    ("name", "rate", "training"),
    [
        ("tune", 22050, False),
        ("tune", 22050, True),
        ("tune", 16000, False),
        ("tune", 8000, False),
        ("tail", 22050, True),
    ],
)
def test_equals_the_transcription_of_the_table(name, rate, training):
    model = build_encoder(name, width=0.18, sample_rate_hz=rate, seed=3)
    randomize(model)
    layers = [
        {"kernel": convolution.kernel.numpy().astype(np.float64), **normalization_of(normalization)}
        for convolution, normalization in zip(model.convolutions, model.normalizations, strict=True)
    ]
    expansions = []
    for expansion in model.expansions:
        kernel = expansion.kernel.numpy().astype(np.float64)
        bias = expansion.bias.numpy().reshape(3, -1)
        # The first third of the outputs is the first of three frames.
        assert np.ptp(bias, axis=0).max() == 0
        expansions.append({"kernel": np.stack(np.split(kernel, 3, axis=1)), "bias": bias[0]})
    audio = np.random.default_rng(1).uniform(-0.9, 0.9, (2, CLIP_NUM_SAMPLES[rate])).astype(np.float32)
    expected, statistics, lengths = tune(audio, layers, expansions, name == "tune", training)
    assert lengths == LENGTHS[rate]
    received = model(audio, training=training).numpy()
    assert received.shape == (2, 512)
    np.testing.assert_allclose(received, expected, rtol=2e-3, atol=2e-4 * np.abs(expected).max())
    assert np.std(expected) > 0.1
    for normalization, (mean, variance) in zip(model.normalizations, statistics, strict=True):
        np.testing.assert_allclose(normalization.moving_mean.numpy(), mean, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(normalization.moving_variance.numpy(), variance, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["tune", "tail"])
def test_the_layers_have_the_channels_of_the_table(name):
    c = 11
    outputs = [c, 2 * c, 4 * c, 8 * c, 16 * c, 8 * c, 4 * c, 2 * c, c, 2 * c, 4 * c, 8 * c, 16 * c]
    outputs += [32 * c, 32 * c, 32 * c, 32 * c, 512]
    tail_inputs = [3 * c, 6 * c, 12 * c, 24 * c] if name == "tune" else [c, 2 * c, 4 * c, 8 * c]
    inputs = [
        1,
        c,
        2 * c,
        4 * c,
        8 * c,
        16 * c,
        8 * c,
        4 * c,
        2 * c,
        *tail_inputs,
        16 * c,
        32 * c,
        32 * c,
        32 * c,
        32 * c,
    ]
    model = build_encoder(name, seed=0)
    expected = [(3, *pair) for pair in zip(inputs, outputs, strict=True)]
    assert [tuple(layer.kernel.shape) for layer in model.convolutions] == expected
    expected = [(16 * c, 3 * 8 * c), (8 * c, 3 * 4 * c), (4 * c, 3 * 2 * c), (2 * c, 3 * c)]
    assert [tuple(layer.kernel.shape) for layer in model.expansions] == expected
    halved = build_encoder(name, width=0.5)
    # 5.5 channels are rounded to an even number.
    assert [layer.filters for layer in halved.convolutions] == [*(6 * channels // c for channels in outputs[:-1]), 512]
