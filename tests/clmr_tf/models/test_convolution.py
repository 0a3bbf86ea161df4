"""The convolution layer against that of Keras, outputs and gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.models.clip_encoder import dtype_policy
from clmr_tf.models.layers import Convolution1D


def outputs_and_gradients(layer: keras.layers.Conv1D, inputs: np.ndarray, slopes: np.ndarray, **arguments):
    """Outputs, and the gradients of their sum weighted by `slopes` in the inputs and in the layer's weights."""
    inputs = tf.convert_to_tensor(inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, **arguments)
        total = tf.reduce_sum(tf.cast(outputs, slopes.dtype) * slopes)
    return outputs, *tape.gradient(total, [inputs, *layer.trainable_variables])


def make_layers(dtype: str, channels: int, **arguments) -> tuple[Convolution1D, keras.layers.Conv1D]:
    arguments = {"filters": 5, "kernel_size": 3, "padding": "same", **arguments}
    layers = Convolution1D(**arguments, dtype=dtype), keras.layers.Conv1D(**arguments, dtype=dtype)
    for layer in layers:
        layer.build((None, None, channels))
    layers[1].set_weights(layers[0].get_weights())
    return layers


@pytest.mark.parametrize(("batch", "time"), [(1, 1), (4, 1), (1, 9), (3, 2), (4, 27)])
@pytest.mark.parametrize("is_graph", [False, True])
def test_gradients_equal_those_of_the_plain_convolution(batch, time, is_graph):
    generator = np.random.default_rng(batch * 100 + time)
    ours, plain = make_layers("float64", 7)
    inputs, slopes = generator.standard_normal((batch, time, 7)), generator.standard_normal((batch, time, 5))
    compute = tf.function(outputs_and_gradients) if is_graph else outputs_and_gradients
    for received, expected in zip(
        compute(ours, inputs, slopes, training=True), outputs_and_gradients(plain, inputs, slopes), strict=True
    ):
        np.testing.assert_allclose(received.numpy(), expected.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "arguments",
    [{"use_bias": True, "activation": "relu"}, {"strides": 2}, {"kernel_size": 5}, {"padding": "valid"}],
)
def test_other_settings_use_the_layer_of_keras(arguments):
    generator = np.random.default_rng(0)
    ours, plain = make_layers("float32", 4, **arguments)
    inputs = generator.standard_normal((2, 20, 4)).astype(np.float32)
    slopes = generator.standard_normal(plain(inputs).shape).astype(np.float32)
    for received, expected in zip(
        outputs_and_gradients(ours, inputs, slopes, training=True),
        outputs_and_gradients(plain, inputs, slopes),
        strict=True,
    ):
        np.testing.assert_allclose(received.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_the_gradient_in_bfloat16_is_exact_to_rounding():
    generator = np.random.default_rng(0)
    with dtype_policy("mixed_bfloat16"):
        ours = Convolution1D(16, 3, padding="same", use_bias=False)
        ours.build((None, None, 8))
    inputs = generator.standard_normal((4, 243, 8)).astype(np.float32)
    slopes = generator.standard_normal((4, 243, 16)).astype(np.float32)
    received = outputs_and_gradients(ours, inputs, slopes, training=True)[-1].numpy()
    padded = np.pad(inputs.astype(np.float64), [(0, 0), (1, 1), (0, 0)])
    expected = np.stack([np.einsum("btc,btd->cd", padded[:, tap : tap + 243], slopes) for tap in range(3)])
    assert received.dtype == np.float32
    # bfloat16 has 8 bits: inputs, slopes and the result are each rounded by up to 1/512.
    assert np.linalg.norm(received - expected) < 0.01 * np.linalg.norm(expected)


def test_inference_uses_the_plain_convolution():
    ours, _ = make_layers("float32", 4)
    graph = tf.function(lambda inputs: ours(inputs, training=False)).get_concrete_function(
        tf.TensorSpec([None, 9, 4], tf.float32)
    )
    assert not [node for node in graph.graph.as_graph_def().node if "IdentityN" in node.op]
