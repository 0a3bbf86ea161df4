"""The known key layouts, and what does not match any of them."""

from pathlib import Path

import numpy as np
import pytest

from clmr_tf.convert.layouts import arrange, arrange_head, sample_rate_of, state_dict_of, width_of
from clmr_tf.errors import UsageError
from clmr_tf.models.sample_cnn import layer_channels
from tests.clmr_tf.convert.state_dicts import (
    CHANNELS,
    SIZES,
    encoder,
    linear_head,
    mlp_head,
    old_names,
    prefixed,
    projector,
)

PATH = Path("clmr.ckpt")
ENCODER, PROJECTOR, LINEAR, MLP = encoder(), projector(), linear_head(), mlp_head()
FC = {"encoder.fc.weight": LINEAR["0.weight"], "encoder.fc.bias": LINEAR["0.bias"]}

PLAIN = prefixed("encoder.", ENCODER) | prefixed("projector.", PROJECTOR)
LIGHTNING = (
    prefixed("encoder.", ENCODER) | prefixed("model.encoder.", ENCODER) | prefixed("model.projector.", PROJECTOR)
)
OLD = prefixed("encoder.", old_names(ENCODER)) | prefixed("projector.", PROJECTOR)


@pytest.mark.parametrize(
    ("tensors", "name"),
    [(LIGHTNING, "model.encoder.sequential.*"), (PLAIN, "encoder.sequential.*"), (OLD, "encoder.conv{n}.*")],
)
def test_the_three_layouts_hold_one_network(tensors, name):
    network, layout = arrange(tensors, PATH)
    assert layout.name == name and network.head == ()
    assert len(network.layers) == 11
    for index, layer in enumerate(network.layers):
        for part, key in (
            ("kernel", "0.weight"),
            ("bias", "0.bias"),
            ("gamma", "1.weight"),
            ("beta", "1.bias"),
            ("mean", "1.running_mean"),
            ("variance", "1.running_var"),
        ):
            received = getattr(layer, part)
            np.testing.assert_array_equal(received, ENCODER[f"sequential.{index}.{key}"])
            assert received.dtype == np.float64
    np.testing.assert_array_equal(network.projector[0], PROJECTOR["0.weight"])
    np.testing.assert_array_equal(network.projector[1], PROJECTOR["2.weight"])


@pytest.mark.parametrize(
    ("heads", "expected"),
    [
        (FC, list(LINEAR.values())),
        (prefixed("model.", LINEAR), list(LINEAR.values())),
        (prefixed("model.", MLP), list(MLP.values())),
        # The supervised network names its weights twice, and the head too.
        (
            FC | prefixed("model.", ENCODER) | {f"model.{key[8:]}": one for key, one in FC.items()},
            list(LINEAR.values()),
        ),
        # Trained afterwards, so that the one inside is not used.
        (FC | prefixed("model.", MLP), list(MLP.values())),
        ({key: 0 * one for key, one in FC.items()}, []),
    ],
)
def test_heads_inside_and_behind_the_encoder(heads, expected):
    network, _ = arrange(prefixed("encoder.", ENCODER) | heads, PATH)
    assert len(network.head) == len(expected)
    for received, part in zip(network.head, expected, strict=True):
        np.testing.assert_array_equal(received, part)


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("head", [LINEAR, MLP])
def test_heads_by_themselves(prefix, head):
    tensors = prefixed(prefix, head) | (prefixed("encoder.", ENCODER) if prefix else {})
    for received, part in zip(arrange_head(tensors, PATH), head.values(), strict=True):
        np.testing.assert_array_equal(received, part)


@pytest.mark.parametrize("head", [{}, FC, prefixed("model.", MLP)])
def test_a_state_dict_comes_back_as_it_was(head):
    tensors = PLAIN | head
    written = state_dict_of(arrange(tensors, PATH)[0], 7)
    assert set(written) == set(tensors)
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(written[key], tensor)
        assert written[key].dtype == tensor.dtype and written[key].shape == tensor.shape


@pytest.mark.parametrize("wrapped", ["module.{}", "_orig_mod.{}", "module._orig_mod.{}", "_orig_mod.module.{}"])
@pytest.mark.parametrize("tensors", [PLAIN, LIGHTNING, OLD], ids=["plain", "lightning", "old"])
def test_network_wrappers_are_removed_from_keys(wrapped, tensors):
    expected, layout = arrange(tensors, PATH)
    for keys in (
        {key: wrapped.format(key) for key in tensors},
        # Inside of a Lightning module, for which `model` is a part of its own.
        {key: f"{key.partition('.')[0]}.{wrapped.format(key.partition('.')[2])}" for key in tensors},
    ):
        received, same_layout = arrange({keys[key]: tensor for key, tensor in tensors.items()}, PATH)
        assert same_layout == layout
        for one, other in zip(received.layers, expected.layers, strict=True):
            np.testing.assert_array_equal(one.kernel, other.kernel)
            np.testing.assert_array_equal(one.variance, other.variance)
        np.testing.assert_array_equal(received.projector[1], expected.projector[1])
    for received, part in zip(arrange_head(prefixed("module.", MLP), PATH), MLP.values(), strict=True):
        np.testing.assert_array_equal(received, part)


def without(key: str) -> dict[str, np.ndarray]:
    return {name: tensor for name, tensor in PLAIN.items() if name != key}


KERNEL = "encoder.sequential.4.0.weight"


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"layer1.0.weight": np.zeros(3)}, "unknown layout: .* but `layer1.0.weight`; give"),
        (
            prefixed("backbone.", PLAIN),
            "unknown layout: .* but `backbone.encoder.sequential.0.0.weight`, `[^`]*bias`, `[^`]*weight` and 76 more;",
        ),
        (LINEAR, "unknown layout: .* but `0.weight`, `0.bias`; give a checkpoint of an encoder of"),
        ({"\x1b[2J": np.zeros(3), "a" * 999: np.zeros(3)}, r"but '\\x1b\[2J', 'a{12}\.{3}a{13}'; give"),
        (
            PLAIN | prefixed("module.", PLAIN),
            "with and without a wrapper, such as `module.encoder.sequential.0.0.weight`,",
        ),
        (without("encoder.sequential.4.1.running_var"), "has no `encoder.sequential.4.1.running_var`"),
        (without(KERNEL), f"has no `{KERNEL}`"),
        (PLAIN | {"encoder.sequential.11.0.weight": np.zeros(3)}, "unexpected keys `encoder.sequential.11.0.weight`"),
        (PLAIN | {"attention.weight": np.zeros(3)}, "unexpected keys `attention.weight`"),
        (PLAIN | {KERNEL: np.zeros((16, 16, 4))}, rf"`{KERNEL}` has the shape \[16, 16, 4\] instead of \[16, 16, 3\]"),
        (PLAIN | {KERNEL: np.zeros((16, 8, 3))}, rf"`{KERNEL}` has the shape \[16, 8, 3\] instead of \[16, 16, 3\]"),
        (PLAIN | {KERNEL: np.zeros(())}, rf"`{KERNEL}` has the shape \[\] instead of \[16, 16, 3\]"),
        (PLAIN | {"encoder.sequential.0.0.bias": np.zeros(9)}, r"0\.0\.bias` has the shape \[9\] instead of \[8\]"),
        (PLAIN | {"projector.2.weight": np.zeros((64, 256))}, r"has the shape \[64, 256\] instead of \[n, 512\]"),
        (PLAIN | {"encoder.fc.weight": np.zeros((50, 512))}, "has no `encoder.fc.bias`"),
        (
            PLAIN | {"encoder.sequential.0.1.weight": np.full(8, np.nan)},
            r"0\.1\.weight` has values that are not finite",
        ),
    ],
)
def test_what_is_not_a_sample_cnn_is_one_sentence(tensors, sentence):
    with pytest.raises(UsageError, match=rf"^clmr\.ckpt.*{sentence}.*\.$"):
        arrange(tensors, PATH)


def test_a_file_without_a_head_is_one_sentence():
    with pytest.raises(UsageError, match=r"contains no head: .* but `encoder\.sequential\.0\.0\.weight`, .* more;"):
        arrange_head(PLAIN, PATH)


def test_the_width_follows_from_the_channels():
    for width in (0.0625, 0.125, 0.25, 0.5, 0.75, 1.0, 2.0):
        assert width_of([(channels, 1, 3) for channels in layer_channels(width)]) == width
    assert layer_channels(1.0) == (*3 * [128], *6 * [256], 512, 512) and layer_channels(0.0625) == CHANNELS
    for width in np.random.default_rng(0).uniform(0.01, 3, 300):
        channels = layer_channels(width)
        assert layer_channels(width_of([(count, 1, 3) for count in channels])) == channels


def test_the_rate_follows_from_the_sizes_of_the_kernels():
    for rate, sizes in SIZES.items():
        assert sample_rate_of([(8, 8, size) for size in (3, *sizes, 3)]) == rate
