"""Which checkpoint of a run is the best so far."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clmr_tf.checkpoint import Checkpoints, take_up_best

logger = logging.getLogger(__name__)


class BestCheckpoint:
    """Keeps the checkpoint with the best value of a metric beside the newest ones.

    Args:
        checkpoints: The newest ones.
        folder: Where the best is kept.
        metric: "validation_loss", of which less is better, or another, of which more is.
        measured_on: Whatever else its value depends on, as JSON data. What was measured otherwise before is not
            compared, and gives way to the next measurement.
    """

    def __init__(self, checkpoints: Checkpoints, folder: Path, metric: str, measured_on: Mapping[str, object]) -> None:
        self._checkpoints = checkpoints
        self._folder = folder
        self._measurement = {"metric": metric, "measured_on": dict(measured_on)}
        self._metric = metric
        self._best = self._comparable(take_up_best(folder))

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
            value = row[self._metric]
            self._checkpoints.keep_best(step, self._folder, {**self._measurement, "value": value})
            self._best = value

    def _comparable(self, reason: Mapping[str, Any] | None) -> float | None:
        """The value of the best checkpoint before, if it was measured as it will be now."""
        if reason is None:
            return None
        differing = [name for name, value in self._measurement.items() if reason.get(name) != value]
        if differing or not isinstance(reason.get("value"), float):
            logger.warning(
                "The best checkpoint in %s was chosen by another measurement (%s); the next one takes its place.",
                self._folder,
                ", ".join(f"{name} {reason.get(name)}" for name in differing or ["value"]),
            )
            return None
        return reason["value"]
