"""The encoder against a NumPy transcription of the original, and its arguments."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.models.clip_encoder import CLIP_NUM_SAMPLES
from clmr_tf.models.sample_cnn import POOL_SIZES, SampleCNN
from tests.reference.sample_cnn import sample_cnn as slow_sample_cnn

RATES = sorted(CLIP_NUM_SAMPLES)


def built(**arguments) -> SampleCNN:
    model = SampleCNN(**{"width": 0.0625, "seed": 3, **arguments})
    model.build()
    return model


def randomize(model: SampleCNN) -> list[dict]:
    """Gives every weight a random value and returns them all for the transcription."""
    generator = np.random.default_rng(0)
    layers = []
    for convolution, normalization in zip(model.convolutions, model.normalizations, strict=True):
        channels = convolution.filters
        for variable, low, high in (
            (normalization.gamma, 0.5, 1.5),
            (normalization.beta, -0.5, 0.5),
            (normalization.moving_mean, -0.3, 0.3),
            (normalization.moving_variance, 0.3, 2.0),
        ):
            variable.assign(generator.uniform(low, high, channels))
        layers.append(
            {
                "kernel": convolution.kernel.numpy().astype(np.float64),
                "gamma": normalization.gamma.numpy(),
                "beta": normalization.beta.numpy(),
                "mean": normalization.moving_mean.numpy(),
                "variance": normalization.moving_variance.numpy(),
            }
        )
    return layers


def noise(num_samples: int, batch: int = 3) -> np.ndarray:
    return np.random.default_rng(1).uniform(-0.9, 0.9, (batch, num_samples)).astype(np.float32)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("training", [False, True])
def test_equals_the_transcription_of_the_original(rate, training):
    model = built(sample_rate_hz=rate)
    layers = randomize(model)
    audio = noise(CLIP_NUM_SAMPLES[rate])
    expected, statistics = slow_sample_cnn(audio, layers, POOL_SIZES[rate], training)
    received = model(audio, training=training).numpy()
    assert expected.shape[1] == 1
    np.testing.assert_allclose(received, expected[:, 0], rtol=2e-3, atol=2e-4 * np.abs(expected).max())
    assert np.std(expected) > 0.1
    for normalization, (mean, variance) in zip(model.normalizations, statistics, strict=True):
        np.testing.assert_allclose(normalization.moving_mean.numpy(), mean, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(normalization.moving_variance.numpy(), variance, rtol=1e-3, atol=1e-4)


def test_has_the_parameters_of_the_original_except_redundant_biases():
    model = SampleCNN(seed=0)
    model.build()
    num_parameters = sum(np.prod(variable.shape) for variable in model.trainable_variables)
    biases = 3 * 128 + 6 * 256 + 2 * 512
    assert num_parameters + biases == 2_368_512


def test_initial_weights_are_he_uniform_and_reproducible():
    first, again, other = built(width=0.5), built(width=0.5), built(width=0.5, seed=4)
    for convolution, same, different in zip(first.convolutions, again.convolutions, other.convolutions, strict=True):
        kernel = convolution.kernel.numpy()
        limit = np.sqrt(6 / np.prod(kernel.shape[:2]))
        assert np.abs(kernel).max() <= limit
        assert np.std(kernel) == pytest.approx(limit / np.sqrt(3), rel=0.1)
        np.testing.assert_array_equal(kernel, same.kernel.numpy())
        assert np.abs(kernel - different.kernel.numpy()).max() > 0.1 * limit
    a, b = first.convolutions[5].kernel.numpy(), first.convolutions[6].kernel.numpy()
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.05


def test_takes_a_channel_axis_and_mixes_no_examples():
    model = built()
    randomize(model)
    audio = noise(59049)
    together = model(audio).numpy()
    np.testing.assert_allclose(model(audio[..., None]).numpy(), together, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model(audio[1:2]).numpy(), together[1:2], rtol=1e-4, atol=1e-5)


def test_mixed_precision_keeps_statistics_in_float32_and_stays_close():
    model = built(dtype="float32")
    randomize(model)
    try:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
        low = built()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    low.set_weights(model.get_weights())
    audio = noise(59049, batch=8)
    expected, received = model(audio, training=True).numpy(), low(audio, training=True)
    assert received.dtype == tf.bfloat16
    assert all(variable.dtype == "float32" for variable in low.variables)
    received = tf.cast(received, tf.float32).numpy()
    assert np.corrcoef(expected.ravel(), received.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"width": 0}, "width"), ({"sample_rate_hz": 44100}, "sample_rate_hz")],
)
def test_invalid_arguments_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        SampleCNN(**arguments)
