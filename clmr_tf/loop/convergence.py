"""What the validations of a run mean for its learning rate and its end."""

import math
from collections.abc import Iterable, Mapping

import tensorflow as tf

from clmr_tf.config import TrainConfig
from clmr_tf.distribution import gather_over_workers
from clmr_tf.plateau import Plateau

_METRIC = "validation_loss"
_PLATEAU_FACTOR = 0.2


class Convergence:
    """Lowers the learning rate on a plateau of the validation loss, and ends the run when it has not fallen for long.

    Factor and rule of the plateau are those of the released supervised baseline. That also makes an early stopping with
    20 epochs of patience, and never uses it.

    Everything follows from the rows of metrics.jsonl, so a run that resumes is where it was.

    Args:
        config: With its learning rate resolved; only the schedule "plateau" and early stopping look at validations.
        rows: Those of earlier starts, in their order.
    """

    def __init__(self, config: TrainConfig, rows: Iterable[Mapping[str, float]] = ()) -> None:
        self._peak = config.learning_rate
        self._lowers = config.schedule == "plateau"
        self._patience = config.early_stopping
        self._plateau = Plateau(config.plateau_patience)
        self._best, self._num_since_best, self._num_reductions = math.inf, 0, 0
        self._has_ended = False
        for row in rows:
            self.observe(row)

    @property
    def has_ended(self) -> bool:
        """Whether the run is over."""
        return self._has_ended

    def observe(self, row: Mapping[str, float | None]) -> None:
        """Takes a row of metrics.jsonl; one without a validation says nothing."""
        if _METRIC not in row or not (self._lowers or self._patience):
            return
        # What was not finite is null in the row, and worse than any number.
        loss = math.inf if row[_METRIC] is None else row[_METRIC]
        self._num_since_best = 0 if loss < self._best else self._num_since_best + 1
        self._best = min(self._best, loss)
        self._num_reductions += self._lowers and self._plateau.reached_by(-loss)
        self._has_ended = bool(self._patience) and self._num_since_best >= self._patience

    def apply(self, strategy: tf.distribute.Strategy, learning_rate: tf.Variable | None) -> None:
        """Sets the learning rate, and on all workers alike: the chief alone has the rows of earlier starts.

        Args:
            strategy: All workers call this at the same step.
            learning_rate: Of the optimizer; None where a schedule computes it.
        """
        if not (self._lowers or self._patience):
            return
        chief = gather_over_workers(strategy, 2 * self._num_reductions + self._has_ended)[0]
        self._num_reductions, self._has_ended = chief // 2, bool(chief % 2)
        if self._lowers:
            learning_rate.assign(self._peak * _PLATEAU_FACTOR**self._num_reductions)
