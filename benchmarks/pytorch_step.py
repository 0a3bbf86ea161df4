"""A plain PyTorch training step of SampleCNN with NT-Xent and Adam on the CPU, with the original's layers.

`benchmarks.train_step` starts it with a Python that has PyTorch, and sends it commands. Convolutions have a bias, ReLU
comes before pooling, and a step has two forward passes, one backward pass and one update. There is no augmentation and
no input pipeline.
"""

import argparse
import itertools
import time
from typing import Any

import torch
from torch import nn

from benchmarks.peak_memory import peak_memory_mb
from benchmarks.worker import reserve_standard_output, serve

CLIP_NUM_SAMPLES = 59049
EMBEDDING_DIM, PROJECTION_DIM = 512, 64
CHANNELS = (128, 128, 128, 256, 256, 256, 256, 256, 256)
TEMPERATURE, LEARNING_RATE = 0.5, 3e-4


def build_encoder(width: float) -> nn.Sequential:
    """Builds the encoder, [batch, 1, samples] to [batch, 512]; `width` scales channels as in `clmr_tf.SampleCNN`."""
    channels = [max(8, 8 * round(count * width / 8)) for count in CHANNELS] + [EMBEDDING_DIM]
    layers: list[nn.Module] = [nn.Conv1d(1, channels[0], 3, stride=3), nn.BatchNorm1d(channels[0]), nn.ReLU()]
    for before, after in itertools.pairwise(channels):
        layers += [nn.Conv1d(before, after, 3, padding=1), nn.BatchNorm1d(after), nn.ReLU(), nn.MaxPool1d(3, stride=3)]
    last = [nn.Conv1d(EMBEDDING_DIM, EMBEDDING_DIM, 3, padding=1), nn.BatchNorm1d(EMBEDDING_DIM), nn.ReLU()]
    return nn.Sequential(*layers, *last, nn.Flatten())


def build_network(width: float) -> nn.Module:
    """Builds encoder and projector, [batch, 1, samples] to [batch, 64]."""
    projector = [
        nn.Linear(EMBEDDING_DIM, EMBEDDING_DIM, bias=False),
        nn.ReLU(),
        nn.Linear(EMBEDDING_DIM, PROJECTION_DIM, bias=False),
    ]
    return nn.Sequential(*build_encoder(width), *projector)


def nt_xent(z_i: torch.Tensor, z_j: torch.Tensor) -> torch.Tensor:
    """Returns the loss of 2N projections, each with its positive and 2N - 2 negatives."""
    z = nn.functional.normalize(torch.cat([z_i, z_j]), dim=1)
    logits = z @ z.T / TEMPERATURE
    logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool), float("-inf"))
    positives = torch.arange(len(z)).roll(len(z_i))
    return nn.functional.cross_entropy(logits, positives)


class TrainingStep:
    """A network, its optimizer and one batch of noise."""

    def __init__(self, batch_size: int, width: float) -> None:
        torch.manual_seed(0)
        self._network = build_network(width)
        self._optimizer = torch.optim.Adam(self._network.parameters(), lr=LEARNING_RATE)
        self._views = [torch.rand(batch_size, 1, CLIP_NUM_SAMPLES) * 2 - 1 for _ in range(2)]
        for _ in range(2):
            self._run()

    def _run(self) -> float:
        begin = time.perf_counter()
        self._optimizer.zero_grad()
        loss = nt_xent(*(self._network(views) for views in self._views))
        loss.backward()
        self._optimizer.step()
        if not loss.item() > 0:
            raise ArithmeticError(f"The loss of a benchmarked step must be positive. Received: {loss.item()}")
        return time.perf_counter() - begin

    def steps(self, count: int) -> dict[str, Any]:
        """Returns the seconds of each step."""
        return {"seconds": [self._run() for _ in range(count)]}


def main() -> None:
    """Serves the commands of `benchmarks.train_step`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pytorch_step", description=__doc__)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--width", type=float, required=True)
    parser.add_argument("--num-threads", type=int, required=True)
    options = parser.parse_args()
    reserve_standard_output()
    torch.set_num_threads(options.num_threads)
    step = TrainingStep(options.batch_size, options.width)
    serve(
        {"steps": step.steps, "memory": lambda: {"peak_megabytes": peak_memory_mb()}},
        about={"version": torch.__version__, "num_threads": torch.get_num_threads()},
    )


if __name__ == "__main__":
    main()
