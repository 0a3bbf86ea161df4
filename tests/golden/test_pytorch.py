"""The original's network and loss in PyTorch: they give the golden numbers, and their checkpoints are read."""

from pathlib import Path

import numpy as np
import pytest

from clmr_tf.convert.layouts import arrange
from clmr_tf.convert.reader import read_checkpoint
from clmr_tf.convert.translation import to_encoder, to_projector
from clmr_tf.export.model_folder import relative_error
from tests.clmr_tf.convert import state_dicts

torch = pytest.importorskip("torch", reason="needs PyTorch, see `make test-torch`")

# Modules that import PyTorch themselves.
from tests.golden import make_pytorch, pytorch_network  # noqa: E402

HERE = Path(__file__).parent


def test_the_network_gives_the_golden_numbers():
    received = make_pytorch.outputs()
    with np.load(HERE / "reference_pytorch.npz") as expected:
        assert received.keys() == set(expected)
        for name, output in received.items():
            assert relative_error(output, expected[name]) < 1e-6, name


@pytest.mark.parametrize("case", range(4))
def test_the_loss_gives_the_golden_numbers(case):
    with np.load(HERE / "reference_nt_xent.npz") as expected:
        z_i, z_j = (torch.tensor(expected[f"c{case}_{name}"], requires_grad=True) for name in ("zi", "zj"))
        loss = pytorch_network.nt_xent(z_i, z_j, float(expected[f"c{case}_temperature"]))
        loss.backward()
        received = {"loss": loss.detach(), "dzi": z_i.grad, "dzj": z_j.grad}
        for name, tensor in received.items():
            assert relative_error(tensor.numpy(), expected[f"c{case}_{name}"]) < 1e-5, name


class Clmr(torch.nn.Module):
    """Encoder and projector under the names that the released code gives them."""

    def __init__(self) -> None:
        super().__init__()
        encoder = pytorch_network.SampleCNN(state_dicts.CHANNELS, state_dicts.SIZES[22050], None)
        projector = pytorch_network.multi_layer(512, 512, state_dicts.PROJECTION_DIM, bias=False)
        self.encoder = make_pytorch.loaded(encoder, state_dicts.encoder())
        self.projector = make_pytorch.loaded(projector, state_dicts.projector())


def lightning(clmr: Clmr) -> dict:
    """What Lightning saves, with an optimizer that has made a step."""
    module = torch.nn.ModuleDict({"model": clmr})
    optimizer = torch.optim.Adam(module.parameters())
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    sum(parameter.sum() for parameter in module.parameters()).backward()
    optimizer.step()
    return {
        "epoch": 1,
        "global_step": 1,
        "pytorch-lightning_version": "1.9.0",
        "state_dict": before,
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
    }


def in_one_storage(clmr: Clmr) -> dict:
    """The float tensors as views of one storage that has their axes in another order."""
    saved = clmr.state_dict()
    transposed = {name: one.transpose(0, -1) for name, one in saved.items() if one.is_floating_point()}
    storage = torch.cat([one.flatten() for one in transposed.values()])
    parts = storage.split([one.numel() for one in transposed.values()])
    for (name, one), part in zip(transposed.items(), parts, strict=True):
        saved[name] = part.view(one.shape).transpose(0, -1)
    return saved


FORMS = {
    "state dict": Clmr.state_dict,
    "DataParallel": lambda clmr: torch.nn.DataParallel(clmr).state_dict(),
    "Lightning": lightning,
    "views of one storage": in_one_storage,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_archive", [True, False], ids=["archive", "legacy"])
def test_checkpoints_of_every_form_give_the_network_that_saved_them(tmp_path, form, is_archive):
    path = tmp_path / "clmr.pt"
    torch.save(FORMS[form](Clmr()), path, _use_new_zipfile_serialization=is_archive)
    network, _ = arrange(read_checkpoint(path).tensors, path)
    h = to_encoder(network)(state_dicts.audio(22050), training=False)
    z = to_projector(network)(h)
    with np.load(HERE / "reference_pytorch.npz") as expected:
        assert relative_error(h.numpy(), expected["h_22050"]) < 1e-5
        assert relative_error(z.numpy(), expected["z"]) < 1e-5
