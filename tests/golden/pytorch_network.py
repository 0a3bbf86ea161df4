"""The network of the released code in PyTorch, of any width; strict about the keys that it loads."""

import itertools

import torch
from torch import nn


class SampleCNN(nn.Module):
    def __init__(self, channels: tuple[int, ...], sizes: tuple[int, ...], num_outputs: int | None) -> None:
        super().__init__()
        stem, *blocks, last = channels
        layers = [self.layer(1, stem, 3, stride=3, padding=0)]
        for before, after, size in zip((stem, *blocks), blocks, sizes, strict=False):
            layers.append(nn.Sequential(*self.layer(before, after, size), nn.MaxPool1d(size, stride=size)))
        layers.append(self.layer(blocks[-1], last, 3))
        self.sequential = nn.Sequential(*layers)
        self.fc = nn.Identity() if num_outputs is None else nn.Linear(last, num_outputs)

    @staticmethod
    def layer(before: int, after: int, size: int, stride: int = 1, padding: int = 1) -> nn.Sequential:
        convolution = nn.Conv1d(before, after, kernel_size=size, stride=stride, padding=padding)
        return nn.Sequential(convolution, nn.BatchNorm1d(after), nn.ReLU())

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        return self.fc(self.sequential(audio[:, None]).flatten(1))


def multi_layer(*sizes: int, bias: bool = True) -> nn.Sequential:
    """Linear layers with a ReLU between two of them."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def nt_xent(z_i: torch.Tensor, z_j: torch.Tensor, temperature: float) -> torch.Tensor:
    """The loss of the released code's `NT_Xent` in one process: [pairs, dimensions] twice to a scalar."""
    num_pairs, num_views = len(z_i), 2 * len(z_i)
    z = torch.cat([z_i, z_j])
    similarities = nn.functional.cosine_similarity(z[:, None], z[None], dim=2) / temperature
    positives = torch.cat([similarities.diag(num_pairs), similarities.diag(-num_pairs)])[:, None]
    is_negative = ~(torch.eye(num_views) + torch.eye(num_pairs).repeat(2, 2)).bool()
    logits = torch.cat([positives, similarities[is_negative].reshape(num_views, -1)], dim=1)
    return nn.functional.cross_entropy(logits, torch.zeros(num_views, dtype=torch.long))
