"""Computes what PyTorch gives for the weights of the tests, and files as it writes them; no test runs this.

pip install torch==2.13.0 numpy
python -m tests.golden.make_pytorch
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from tests.clmr_tf.convert import state_dicts
from tests.golden.pytorch_network import SampleCNN, multi_layer

HERE = Path(__file__).parent


def loaded(module: torch.nn.Module, tensors: dict[str, np.ndarray]) -> torch.nn.Module:
    module.load_state_dict({key: torch.from_numpy(np.asarray(tensor)) for key, tensor in tensors.items()})
    return module.eval()


@torch.no_grad()
def outputs() -> dict[str, np.ndarray]:
    found = {}
    for rate, sizes in state_dicts.SIZES.items():
        encoder = loaded(SampleCNN(state_dicts.CHANNELS, sizes, None), state_dicts.encoder(rate))
        h = encoder(torch.from_numpy(state_dicts.audio(rate)))
        found[f"h_{rate}"] = h.numpy()
        if rate == 22050:
            heads = {
                "z": loaded(multi_layer(512, 512, state_dicts.PROJECTION_DIM, bias=False), state_dicts.projector()),
                "linear_logits": loaded(multi_layer(512, state_dicts.NUM_TAGS), state_dicts.linear_head()),
                "mlp_logits": loaded(multi_layer(512, 512, state_dicts.NUM_TAGS), state_dicts.mlp_head()),
            }
            found |= {name: head(h).numpy() for name, head in heads.items()}
    return found


def tensors_of_every_kind() -> dict[str, torch.Tensor]:
    base = torch.arange(24, dtype=torch.float32) / 7
    module = torch.nn.BatchNorm1d(2)
    return {
        "plain": base.reshape(4, 6),
        "transposed": base.reshape(4, 6).t(),
        "row": base.reshape(4, 6)[2, 1:5:2],
        "expanded": torch.full((1,), 0.5).expand(3),
        "parameter": torch.nn.Parameter(torch.tensor([1.5, -2.5])),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(7),
        "float64": torch.tensor([1 / 3], dtype=torch.float64),
        "float16": torch.tensor([1 / 3, -65504], dtype=torch.float16),
        "bfloat16": torch.tensor([[1 / 3, -1e30], [2.0, -0.0]], dtype=torch.bfloat16).t(),
        "int32": torch.tensor([-5], dtype=torch.int32),
        "bool": torch.tensor([True, False]),
        **{f"module.{key}": tensor for key, tensor in module.state_dict().items()},
    }


def main() -> None:
    np.savez_compressed(HERE / "reference_pytorch.npz", **outputs())
    tensors = tensors_of_every_kind()
    np.savez_compressed(
        HERE / "torch_saved.npz",
        **{key: (one.float() if one.dtype == torch.bfloat16 else one).detach().numpy() for key, one in tensors.items()},
    )
    ordered = torch.nn.BatchNorm1d(2).state_dict()
    ordered.update(tensors)
    lightning = {
        "epoch": 3,
        "global_step": 12,
        "pytorch-lightning_version": "1.9.0",
        "state_dict": ordered,
        "hyper_parameters": argparse.Namespace(batch_size=48, device=torch.device("cpu"), shape=torch.Size([1, 2])),
        "optimizer_states": [{"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 3e-4}]}],
    }
    torch.save(lightning, HERE / "torch_saved.ckpt")
    torch.save(lightning, HERE / "torch_saved_legacy.ckpt", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
