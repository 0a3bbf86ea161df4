"""The protocols: what a head is trained on, how it is trained, and how a clip is scored.

Sources of those that were published: CLMR's thesis and both versions of its code (https://github.com/Spijkervet/CLMR),
and the probes of JukeMIR (Castellon, Donahue and Liang, ISMIR 2021, https://github.com/p-lambda/jukemir).
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Literal

TrainWindows = Literal["crop", "chunks", "mean"]
"""Training examples: one random crop of each clip, every chunk of a clip, or the mean of a clip's windows."""

MLP_HIDDEN_UNITS = 512
GRID_MONITORS = {True: "accuracy", False: "roc_auc"}
"""Validation metric that selects the best head of the grid; the key says whether every clip has one label."""


@dataclasses.dataclass(frozen=True)
class HeadSettings:
    """Hyperparameters of a head. Adam with torch's betas (0.9, 0.999), epsilon 1e-8 and L2 added to the gradient.

    Attributes:
        hidden_units: Units of the hidden layer, followed by ReLU; 0 for a linear head.
        batch_size: Examples per step.
        learning_rate: Learning rate of Adam.
        weight_decay: L2 coefficient, also applied to biases.
        dropout: Fraction of features and of hidden units dropped in a step.
        standardise: Scale every feature to mean 0 and standard deviation 1 on the training examples.
        monitor: Validation metric: "loss" (lower is better), "roc_auc" or "accuracy".
        steps_between_measurements: Steps between validations; 0 for once per epoch.
        patience: Validations in a row without a new best value after which training ends.
        max_epochs: Maximum number of epochs; 0 for no limit.
        plateau_factor: Factor of the learning rate on a plateau; 1 for no schedule.
        plateau_patience: Plateau patience, in validations without a relative improvement of 1e-4.
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
class LogisticSettings:
    """Hyperparameters of a logistic regression, fitted to its optimum on all examples at once.

    Attributes:
        l2: Strength of the penalty, which is l2 / 2 times the sum of the squared weights, without the biases. It is
            added to the mean loss of an example, so one grid suits corpora of every size. None until it is selected on
            the validation split.
        hidden_units: 0, since the head is linear.
        standardise: As in `HeadSettings`.
        monitor: As in `HeadSettings`.
    """

    l2: float | None = None
    hidden_units: int = 0
    standardise: bool = True
    monitor: str = "loss"


L2_STRENGTHS = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""The grid of `LogisticSettings.l2`, the strongest first: each fit starts at the optimum of the previous one."""
LOGISTIC_HEADS = tuple(LogisticSettings(l2=l2) for l2 in L2_STRENGTHS)


@dataclasses.dataclass(frozen=True)
class ProbeProtocol:
    """The protocol of a preset.

    Attributes:
        name: The preset.
        train_windows: What the head is trained and validated on.
        score_windows: How a clip is scored: by the average over its "chunks", or by the "mean" of its features.
        averaged: What is averaged over the chunks of a clip: "probabilities" or "logits".
        drops_last_chunk: Always drop the last chunk of a clip, partial or not. The original's `torch.split(...)[:-1]`
            is meant for partial chunks, but also loses a whole one if the length is an exact multiple of a chunk's. For
            clips of one chunk the original crashed; here they keep it.
        head: Hyperparameters of the head; for "grid" those that are the same for all its heads, None for the model's
            own head.
        differs: Known differences from the original; empty for this project's own protocol.
    """

    name: str
    train_windows: TrainWindows
    score_windows: Literal["chunks", "mean"]
    averaged: Literal["probabilities", "logits"]
    drops_last_chunk: bool
    head: HeadSettings | LogisticSettings | None
    differs: str


PROTOCOLS: Mapping[str, ProbeProtocol] = {
    # For comparisons between encoders of this project; docs/evaluation.md has the reasons.
    "standard": ProbeProtocol(
        name="standard",
        train_windows="chunks",
        score_windows="chunks",
        averaged="probabilities",
        drops_last_chunk=False,
        head=LogisticSettings(),
        differs="",
    ),
    # Version 2 of the code, which the paper's README links to.
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
    # The numbers in the text of the thesis or, where it gives none, those of version 1 of the code, which it used.
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
    """The 216 heads of the grid in JukeMIR's paper, in a fixed order.

    JukeMIR's repository adds a head with two hidden layers, 324 in all.

    Args:
        single_label: Monitor accuracy; else ROC-AUC.
    """
    axes = {
        "standardise": (False, True),
        "hidden_units": (0, MLP_HIDDEN_UNITS),
        "batch_size": (64, 256),
        "learning_rate": (1e-5, 1e-4, 1e-3),
        "dropout": (0.25, 0.5, 0.75),
        "weight_decay": (0.0, 1e-4, 1e-3),
    }
    base: HeadSettings = dataclasses.replace(PROTOCOLS["grid"].head, monitor=GRID_MONITORS[single_label])
    points = itertools.product(*axes.values())
    return [dataclasses.replace(base, **dict(zip(axes, point, strict=True))) for point in points]
