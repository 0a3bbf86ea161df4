"""The original network loads what is written for it, strictly, and gives the same outputs."""

import numpy as np
import pytest

from clmr_tf.convert.translation import from_pytorch, state_dict_bytes, to_pytorch
from clmr_tf.export.model_folder import relative_error
from tests.clmr_tf.convert.checkpoint_files import GOLDEN
from tests.clmr_tf.convert.state_dicts import CHANNELS, SIZES, audio, encoder, mlp_head, prefixed, projector

torch = pytest.importorskip("torch", reason="needs PyTorch")


def test_the_original_network_loads_it_and_gives_the_same(tmp_path):
    # PyTorch as well.
    from tests.golden.pytorch_network import SampleCNN, multi_layer

    plain = prefixed("encoder.", encoder()) | prefixed("projector.", projector()) | prefixed("model.", mlp_head())
    (tmp_path / "clmr.pt").write_bytes(state_dict_bytes(plain))
    options = {"head_checkpoint": None, "tags": None, "golden": None, "licence": "unspecified"}
    from_pytorch(tmp_path / "clmr.pt", tmp_path / "model", **options)
    to_pytorch(tmp_path / "model", tmp_path / "back.pt")

    tensors = torch.load(tmp_path / "back.pt", weights_only=True)
    parts = {
        "encoder.": SampleCNN(CHANNELS, SIZES[22050], None),
        "projector.": multi_layer(512, 512, 64, bias=False),
        "model.": multi_layer(512, 512, 50),
    }
    for prefix, part in parts.items():
        own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        part.load_state_dict(own, strict=True)
        part.eval()
    assert all(key.startswith(tuple(parts)) for key in tensors)
    with torch.no_grad():
        h = parts["encoder."](torch.from_numpy(audio(22050)))
        received = {"h_22050": h, "z": parts["projector."](h), "mlp_logits": parts["model."](h)}
    with np.load(GOLDEN / "reference_pytorch.npz") as expected:
        for name, tensor in received.items():
            assert relative_error(tensor.numpy(), expected[name]) < 1e-5, name
