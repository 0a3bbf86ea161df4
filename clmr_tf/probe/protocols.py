"""The protocols: from which pieces of a clip a head learns, how it is trained, how a clip is scored.

Sources: CLMR's thesis and both versions of its code (https://github.com/Spijkervet/CLMR), and the probes of JukeMIR
(Castellon, Donahue and Liang, ISMIR 2021, https://github.com/p-lambda/jukemir).
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Literal

TrainWindows = Literal["crop", "chunks", "mean"]
"""What one training example is: one random crop of a clip, each chunk of a clip, or the mean of a clip's windows."""

MLP_HIDDEN_UNITS = 512
GRID_MONITORS = {True: "accuracy", False: "roc_auc"}
"""What chooses between the heads of the grid, on the validation split, by whether every clip has one label."""


@dataclasses.dataclass(frozen=True)
class HeadSettings:
    """How a head is trained. Adam with torch's betas (0.9, 0.999), epsilon 1e-8 and L2 added to the gradient.

    Attributes:
        hidden_units: Units of the hidden layer, followed by ReLU; 0 for a linear head.
        batch_size: Examples a step.
        learning_rate: Of Adam.
        weight_decay: Times weights and biases, added to their gradients.
        dropout: Share of features and of hidden units that a step leaves out.
        standardise: Bring every feature to mean 0 and deviation 1 on the training examples.
        monitor: What is measured on the validation split: "loss" (less is better), "roc_auc" or "accuracy".
        steps_between_measurements: 0 for once an epoch.
        patience: Measurements in a row without a new best after which training ends.
        max_epochs: Passes over the examples after which it ends in any case; 0 for no limit.
        plateau_factor: What the learning rate is multiplied by on a plateau; 1 for never.
        plateau_patience: Measurements without an improvement by a ten-thousandth that are borne before that.
    """

    hidden_units: int = 0
    batch_size: int = 48
    learning_rate: float = 1e-3
    weight_decay: float = 1e-6
    dropout: float = 0.0
    standardise: bool = False
    monitor: str = "loss"
    steps_between_measurements: int = 0
    patience: int = 10
    max_epochs: int = 200
    plateau_factor: float = 1.0
    plateau_patience: int = 0


@dataclasses.dataclass(frozen=True)
class ProbeProtocol:
    """A preset.

    Attributes:
        name: As on the command line.
        train_windows: What the head learns from, and what it is measured on while it learns.
        score_windows: What a clip is scored by: the average over its "chunks", or the "mean" of its features.
        averaged: What is averaged over the chunks of a clip: "probabilities" or "logits".
        drops_last_chunk: Always leave out the last chunk of a clip, partial or not. The original's
            `torch.split(...)[:-1]` is meant for partial ones and loses a full one where the length is an exact
            multiple. A clip of one chunk has nothing left then, and the original crashed; here it keeps its chunk.
        head: How the head is trained; the middle of the grid for "grid", None for one that was trained before.
        differs: Where the protocol is knowingly not what the original did.
    """

    name: str
    train_windows: TrainWindows
    score_windows: Literal["chunks", "mean"]
    averaged: Literal["probabilities", "logits"]
    drops_last_chunk: bool
    head: HeadSettings | None
    differs: str


PROTOCOLS: Mapping[str, ProbeProtocol] = {
    # Version 2 of the code, which the paper's README points at.
    "released": ProbeProtocol(
        name="released",
        train_windows="crop",
        score_windows="chunks",
        averaged="probabilities",
        drops_last_chunk=True,
        head=HeadSettings(plateau_factor=0.1, plateau_patience=5),
        differs="keeps the weights of the best validation loss; the original keeps those of its last epoch, "
        "up to ten worse ones later",
    ),
    # The numbers of the thesis' text; where it gives none, version 1 of the code, with which it was written.
    "thesis": ProbeProtocol(
        name="thesis",
        train_windows="chunks",
        score_windows="chunks",
        averaged="logits",
        drops_last_chunk=True,
        head=HeadSettings(learning_rate=3e-4, patience=3),
        differs="stops by validation loss and keeps its best weights; version 1 of the code stops once AUC and average "
        "precision have both fallen and keeps those worse weights, with batches of 2,048",
    ),
    "grid": ProbeProtocol(
        name="grid",
        train_windows="mean",
        score_windows="mean",
        averaged="probabilities",
        drops_last_chunk=False,
        head=HeadSettings(steps_between_measurements=8, patience=256, max_epochs=0),
        differs="batches go through the examples in a new order every epoch; the original draws each batch anew",
    ),
}


def grid_of_heads(single_label: bool) -> list[HeadSettings]:
    """The 216 heads of JukeMIR's grid, in a fixed order.

    The paper's grid; the repository adds a head of two hidden layers, 324 in all.

    Args:
        single_label: Chooses the metric that stops a run and chooses between them: accuracy, else ROC-AUC.
    """
    axes = {
        "standardise": (False, True),
        "hidden_units": (0, MLP_HIDDEN_UNITS),
        "batch_size": (64, 256),
        "learning_rate": (1e-5, 1e-4, 1e-3),
        "dropout": (0.25, 0.5, 0.75),
        "weight_decay": (0.0, 1e-4, 1e-3),
    }
    base = dataclasses.replace(PROTOCOLS["grid"].head, monitor=GRID_MONITORS[single_label])
    points = itertools.product(*axes.values())
    return [dataclasses.replace(base, **dict(zip(axes, point, strict=True))) for point in points]
