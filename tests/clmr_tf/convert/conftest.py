"""Outputs of PyTorch, a converted model, and a function that reads bytes as a checkpoint."""

import numpy as np
import pytest

from clmr_tf.console import run_command
from clmr_tf.convert.__main__ import main
from clmr_tf.convert.reader import read_checkpoint
from clmr_tf.convert.translation import state_dict_bytes
from tests.clmr_tf.convert.checkpoint_files import GOLDEN, lightning_bytes
from tests.clmr_tf.convert.state_dicts import audio, encoder, mlp_head, prefixed, projector
from tests.clmr_tf.probed import only_default_signature


@pytest.fixture(scope="session")
def expected():
    with np.load(GOLDEN / "reference_pytorch.npz") as file:
        return dict(file)


@pytest.fixture(scope="session")
def converted(tmp_path_factory, expected):
    """The converted model of a Lightning checkpoint with a projector, and of a separate head with a hidden layer."""
    folder = tmp_path_factory.mktemp("converted")
    lightning = prefixed("model.encoder.", encoder()) | prefixed("model.projector.", projector())
    (folder / "clmr.ckpt").write_bytes(lightning_bytes(lightning))
    (folder / "finetuner.pt").write_bytes(state_dict_bytes(mlp_head()))
    names = {"h": "h_22050", "z": "z", "logits": "mlp_logits"}
    golden = {name: expected[recorded] for name, recorded in names.items()}
    np.savez(folder / "golden.npz", audio=audio(22050), **golden)
    options = "--head", folder / "finetuner.pt", "--golden", folder / "golden.npz", "--licence", "Apache-2.0"
    arguments = "--from-pytorch", folder / "clmr.ckpt", "--out", folder / "model", *options
    with only_default_signature():
        assert run_command(main, [str(argument) for argument in arguments]) == 0
    return folder / "model"


@pytest.fixture
def read(tmp_path):
    def write_and_read(content: bytes):
        (tmp_path / "clmr.ckpt").write_bytes(content)
        return read_checkpoint(tmp_path / "clmr.ckpt")

    return write_and_read
