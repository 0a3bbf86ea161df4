"""What happens between training steps besides saving and logging."""

import contextlib
import logging
import math
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from clmr_tf.config.train import TrainConfig
from clmr_tf.console import EXIT_FAILURE
from clmr_tf.errors import ClmrError
from clmr_tf.train.checkpoints import Checkpoints, take_up_best
from clmr_tf.train.distribution import gather_over_workers, num_workers

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


# What is better by less than this share is no improvement.
_THRESHOLD = 1e-4


class Plateau:
    """`torch.optim.lr_scheduler.ReduceLROnPlateau` with its relative threshold and no cooldown; greater is better.

    Args:
        patience: Values in a row without an improvement that are borne.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._best, self._num_bad = -math.inf, 0

    def reached_by(self, value: float) -> bool:
        """Takes the next value, and says whether it is one too many without an improvement; counting begins anew."""
        self._num_bad += 1
        # The first value in any case; the best before is no finite number then.
        if value > self._best + _THRESHOLD * abs(self._best) or not math.isfinite(self._best):
            self._best, self._num_bad = value, 0
        if self._num_bad <= self._patience:
            return False
        self._num_bad = 0
        return True


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


_FIRST, _LAST = 10, 20


class StepProfile:
    """Profiles the 10th to the 20th step after the start of a process, when everything is compiled and warm.

    Args:
        folder: Where TensorBoard looks.
        first_step: Steps done before this start.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        self._folder = folder
        self._begin, self._end = first_step + _FIRST - 1, first_step + _LAST
        self._first_step = self._step = first_step
        self._is_running = self._is_complete = False
        self.boundaries = (self._begin, self._end)

    def after_step(self, step: int) -> None:
        """Takes the number of steps done; begins and ends the profile at `boundaries`."""
        self._step = step
        if step == self._begin:
            tf.profiler.experimental.start(str(self._folder))
            self._is_running = True
        elif step == self._end:
            self._is_complete = True
            self.close()

    def close(self) -> None:
        """Writes what was profiled so far, if it is running; warns if that is not all of it."""
        if self._is_running:
            self._is_running = False
            tf.profiler.experimental.stop()
        if not self._is_complete:
            logger.warning(
                "--profile has %s of the %d steps that it is of, because this start ended after %d steps; it needs %d.",
                max(0, self._step - self._begin) or "none",
                self._end - self._begin,
                self._step - self._first_step,
                _LAST,
            )


_FEWEST_STEPS, _MANY = 10, 0.1
_LARGEST_FRACTION = 0.5


def require_trained(workdir: Path, num_steps: int, num_skipped: int) -> None:
    """Refuses to call a run trained that has skipped more than half of its steps.

    Args:
        workdir: Folder of the run.
        num_steps: Steps that it has.
        num_skipped: Of those, the ones that `--on-nonfinite skip` left out.

    Raises:
        ClmrError: If these are more than half.
    """
    if num_skipped > _LARGEST_FRACTION * num_steps:
        raise ClmrError(
            f"{num_skipped} of the {num_steps} steps of the run in {workdir} were skipped because their loss or "
            "gradient was not finite, so it has hardly learned anything; train anew with a lower --learning-rate or a "
            "higher --temperature in a new --workdir."
        )


class SkippedSteps:
    """Warns of the steps that `--on-nonfinite skip` left out.

    Each time that their number has doubled, and where more than a tenth of the steps between two rows were left out
    and of the rows before were not; so a run that leaves out all its steps says so some dozen times, not every time.

    Args:
        step: Steps done before.
        num_skipped: Of those, the ones left out.
    """

    def __init__(self, step: int, num_skipped: int) -> None:
        self._step = step
        self._num_skipped = self._num_told = num_skipped
        self._were_many = False

    def observe(self, step: int, num_skipped: int) -> None:
        """Takes the number of steps done and of those left out since the run began; warns if it has to be said."""
        num_new, num_steps = num_skipped - self._num_skipped, step - self._step
        are_many = num_steps >= _FEWEST_STEPS and num_new > _MANY * num_steps
        if num_new and (num_skipped >= 2 * self._num_told or (are_many and not self._were_many)):
            logger.warning(
                "%d steps were left out since the run began, %d of the last %d, because their loss or gradient was "
                "not finite; if that goes on, try a lower --learning-rate or higher --temperature in a new --workdir.",
                num_skipped,
                num_new,
                num_steps,
            )
            self._num_told = num_skipped
        self._step, self._num_skipped, self._were_many = step, num_skipped, are_many


class Watchdog:
    """Ends the process when nothing is reported for too long.

    Args:
        timeout_seconds: The longest time between two reports.
        message: The last words; one sentence for standard error.
    """

    def __init__(self, timeout_seconds: float, message: str) -> None:
        self._timeout_seconds = timeout_seconds
        self._message = message
        self._reported = threading.Event()
        self._is_over = False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._reported.set()
        self._thread.join()

    def report(self) -> None:
        """Says that something was done."""
        self._reported.set()

    def _watch(self) -> None:
        while self._reported.wait(self._timeout_seconds):
            self._reported.clear()
            if self._is_over:
                return
        # No exception: the main thread waits in native code for a worker that will never answer.
        sys.stderr.write(f"error: {self._message}\n")
        sys.stderr.flush()
        os._exit(EXIT_FAILURE)


@contextlib.contextmanager
def watched_workers(strategy: tf.distribute.Strategy, timeout_seconds: float) -> Iterator[Callable[[], None]]:
    """Ends the process if the other workers are lost; yields what is to be called whenever something is done."""
    if num_workers(strategy) == 1:
        yield lambda: None
        return
    lost = (
        f"Nothing was finished for {timeout_seconds:g} seconds, so another worker is taken for lost; "
        "start all workers again, and they resume from the newest checkpoint."
    )
    with Watchdog(timeout_seconds, lost) as watchdog:
        yield watchdog.report
