"""Which checkpoint of a run is the best so far."""

import math
from collections.abc import Mapping
from pathlib import Path

from clmr_tf.checkpoint import Checkpoints


class BestCheckpoint:
    """Keeps the checkpoint with the best value of a metric beside the newest ones.

    Args:
        checkpoints: The newest ones.
        folder: Where the best is kept.
        metric: "validation_loss", of which less is better, or another, of which more is.
    """

    def __init__(self, checkpoints: Checkpoints, folder: Path, metric: str) -> None:
        self._checkpoints = checkpoints
        self._folder = folder
        self._metric = metric
        self._best = checkpoints.best(folder, metric)

    def improves(self, row: Mapping[str, float]) -> bool:
        """Whether a row of metrics.jsonl is the best so far; False where it has no finite value."""
        value = row.get(self._metric)
        # A NaN would be the best for ever, since no number compares with it.
        if value is None or not math.isfinite(value):
            return False
        if self._best is None:
            return True
        return value < self._best if self._metric == "validation_loss" else value > self._best

    def keep(self, step: int, row: Mapping[str, float]) -> None:
        """Keeps the checkpoint of a step, which has been saved, if it is the best so far."""
        if self.improves(row):
            self._best = row[self._metric]
            self._checkpoints.keep_best(step, self._folder, self._metric, self._best)
