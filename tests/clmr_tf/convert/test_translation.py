"""The original network in NumPy and in Keras, against what PyTorch gives for the same weights."""

from pathlib import Path

import numpy as np
import pytest

from clmr_tf.convert.layouts import arrange, state_dict_of
from clmr_tf.convert.translation import to_encoder, to_head, to_original, to_projector
from clmr_tf.export.model_folder import relative_error
from clmr_tf.models.heads import Head
from tests.clmr_tf.convert.state_dicts import SIZES, audio, encoder, linear_head, mlp_head, prefixed, projector

PATH = Path("clmr.ckpt")


def network_of(rate: int = 22050, head: dict[str, np.ndarray] | None = None):
    tensors = prefixed("encoder.", encoder(rate)) | prefixed("projector.", projector()) | prefixed("model.", head or {})
    return arrange(tensors, PATH)[0]


@pytest.mark.parametrize("rate", SIZES)
def test_the_transcription_and_the_converted_encoder_equal_pytorch(expected, rate):
    network = network_of(rate)
    h = expected[f"h_{rate}"]
    assert h.std() > 0.1
    assert relative_error(network.encode(audio(rate)), h) < 1e-6
    converted = to_encoder(network)
    assert converted.width == 0.0625 and converted.sample_rate_hz == rate
    assert relative_error(converted(audio(rate), training=False).numpy(), h) < 1e-5


def test_the_heads_equal_pytorchs(expected):
    h = expected["h_22050"]
    assert relative_error(network_of().project(h), expected["z"]) < 1e-6
    assert relative_error(to_projector(network_of())(h).numpy(), expected["z"]) < 1e-5
    for name, head in (("linear_logits", linear_head()), ("mlp_logits", mlp_head())):
        network = network_of(head=head)
        assert relative_error(network.classify(h), expected[name]) < 1e-6
        assert relative_error(to_head(network).logits(h), expected[name]) < 1e-5
    assert to_head(network_of()) is None


def test_the_bias_goes_into_the_mean_exactly():
    network = network_of()
    layer, normalization = network.layers[3], to_encoder(network).normalizations[3]
    assert np.abs(layer.bias).min() > 1e-3
    np.testing.assert_array_equal(normalization.moving_mean.numpy(), np.float32(layer.mean - layer.bias))
    assert normalization.epsilon == 1e-5 and normalization.momentum == 0.9


def test_there_and_back_is_the_same_model():
    network = network_of(head=mlp_head())
    model = to_encoder(network), to_projector(network), to_head(network)
    tensors = state_dict_of(to_original(*model), 3)
    again = arrange(tensors, PATH)[0]
    for first, second in zip(model[0].variables, to_encoder(again).variables, strict=True):
        np.testing.assert_array_equal(first.numpy(), second.numpy())
    for first, second in zip(model[1].get_weights(), to_projector(again).get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)
    for first, second in zip(model[2].weights, to_head(again).weights, strict=True):
        np.testing.assert_array_equal(first, second)


def test_the_standardisation_of_a_probe_goes_into_its_first_layer():
    generator = np.random.default_rng(1)
    weights = to_head(network_of(head=mlp_head())).weights
    head = Head(
        generator.normal(size=512).astype(np.float32), generator.uniform(0.2, 3, 512).astype(np.float32), weights
    )
    features = generator.normal(size=(5, 512)).astype(np.float32)
    received = to_original(to_encoder(network_of()), None, head).classify(features)
    assert relative_error(received, head.logits(features)) < 1e-5
    assert relative_error(received, Head(0 * head.mean, head.standard_deviation, weights).logits(features)) > 1e-2


def test_pytorch_computes_the_same_from_a_written_state_dict(expected, tmp_path):
    torch = pytest.importorskip("torch")
    from clmr_tf.convert.translation import state_dict_bytes
    from tests.clmr_tf.convert.state_dicts import CHANNELS, NUM_TAGS
    from tests.golden.pytorch_network import SampleCNN

    network = network_of(head=linear_head())
    converted = to_original(to_encoder(network), None, to_head(network))
    (tmp_path / "clmr.ckpt").write_bytes(state_dict_bytes(state_dict_of(converted, 3)))
    state = torch.load(tmp_path / "clmr.ckpt", weights_only=True)
    original = SampleCNN(CHANNELS, SIZES[22050], NUM_TAGS)
    original.load_state_dict({key.removeprefix("encoder."): tensor for key, tensor in state.items()})
    with torch.no_grad():
        logits = original.eval()(torch.from_numpy(audio(22050))).numpy()
    assert relative_error(logits, expected["linear_logits"]) < 1e-5
