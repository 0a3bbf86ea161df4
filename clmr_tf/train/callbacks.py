"""What happens between training steps: saving, measuring, logging, stopping. The loop calls each callback in turn."""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from clmr_tf.errors import ClmrError
from clmr_tf.train.checkpoints import Checkpoints, find_best
from clmr_tf.train.distribution import gather_over_workers, num_workers
from clmr_tf.train.failures import NonFiniteError, lost_worker, unsaved_by_chief
from clmr_tf.train.logs import RunLog, row_of
from clmr_tf.train.step import TrainingModel, WeightUpdate

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Progress:
    """The progress of a training; callbacks read it and may change it.

    Attributes:
        step: Steps done.
        num_steps: Length of the run.
        metrics: Metrics of the last step; None if no callback needed them.
        measurements: What callbacks have measured after this step, such as "validation/loss".
        clips_per_second: Rate since metrics were last read; None without metrics and after the first step.
        signals: Signals that this process has received.
        stop_signal: A signal that any worker has received, which ends the run; 0 for none.
        has_ended: Set by a callback that ends the run early.
    """

    step: int
    num_steps: int
    metrics: dict[str, float] | None = None
    measurements: dict[str, float] = dataclasses.field(default_factory=dict)
    clips_per_second: float | None = None
    signals: list[int] = dataclasses.field(default_factory=list)
    stop_signal: int = 0
    has_ended: bool = False


class Callback:
    """An action between training steps.

    The loop calls every callback, in the order of its list, after every execution of steps; an execution never
    continues past a step at which a callback is due. All workers must have callbacks that are due at the same steps, or
    they wait for each other forever.

    Args:
        every: Steps between calls that do something; the end of the run is always included. 0 for never.
    """

    # Whether the callback needs the metrics of the step when it is due.
    needs_metrics = True

    def __init__(self, every: int = 0) -> None:
        self.every = every

    def is_due(self, progress: Progress) -> bool:
        """Whether it has something to do after this step."""
        return self.every > 0 and (progress.step % self.every == 0 or progress.step == progress.num_steps)

    def next_due_step(self, step: int) -> float:
        """The next step at which it is due."""
        return (step // self.every + 1) * self.every if self.every else math.inf

    def start(self, progress: Progress) -> None:
        """Called before the first step."""

    def __call__(self, progress: Progress) -> None:
        """Called after every execution of steps."""

    def close(self) -> None:
        """Called at the end, even after an error."""


class SaveCheckpoints(Callback):
    """Saves every N steps, at the end, and when a signal stops the run.

    Args:
        every: Steps between checkpoints.
        checkpoints: Where the chief saves.
        model: Its weights must be finite.
        strategy: All workers call this at the same step.
        first_step: Steps done before.
        log: The log, whose rows reach the disk before the checkpoint, so a resumed run has lost none. None on workers
            other than the chief, which write nothing.

    Attributes:
        saved_step: The step of the newest checkpoint.
        checkpoints: Where the chief saves.
    """

    needs_metrics = False

    def __init__(
        self,
        every: int,
        checkpoints: Checkpoints,
        model: TrainingModel,
        strategy: tf.distribute.Strategy,
        first_step: int,
        log: RunLog | None,
    ) -> None:
        super().__init__(every)
        self.saved_step = first_step
        self.checkpoints = checkpoints
        self._model = model
        self._strategy = strategy
        self._log = log

    def is_due(self, progress: Progress) -> bool:
        """Whether it is due; it is also due when a signal stops the run."""
        return super().is_due(progress) or progress.stop_signal > 0

    def __call__(self, progress: Progress) -> None:
        """Saves if it is due."""
        if self.is_due(progress):
            self.save_on_all_workers(progress.step, progress.metrics)

    def save_on_all_workers(self, step: int, metrics: Mapping[str, float] | None) -> None:
        """Saves, and reports to the other workers whether that worked; if so, the step counts as saved on all."""
        try:
            self.save(step, metrics)
        finally:
            try:
                saved_by_chief, *_ = gather_over_workers(self._strategy, int(self.saved_step == step))
            except ClmrError as error:
                raise lost_worker(step, self.saved_step) from error
        if self._log is None:
            if not saved_by_chief:
                raise unsaved_by_chief(step, self.saved_step)
            self.saved_step = step

    def save(self, step: int, metrics: Mapping[str, float] | None) -> None:
        """Saves on the chief, unless this step is already saved; other workers only check the weights.

        Args:
            step: Steps done.
            metrics: Metrics of this step, if it will have a row in the log; a run that is killed before that logs it
                later.

        Raises:
            NonFiniteError: If a weight is not finite.
            ClmrError: If it cannot be written.
        """
        if self.saved_step == step:
            return
        self.check_weights(step)
        if self._log is None:
            return
        with self.checkpoints.explained_failure(f"Metrics and checkpoint of step {step} could not be saved"):
            self._log.flush()
        self.checkpoints.save(step, metrics)
        self.saved_step = step

    def check_weights(self, step: int) -> None:
        """Raises NonFiniteError if a weight is not finite after this step; every worker has the same weights."""
        weights = self._model.trainable_variables
        if not tf.reduce_all([tf.reduce_all(tf.math.is_finite(weight)) for weight in weights]):
            raise NonFiniteError.of_weights(step, self.saved_step)


class MeasurementInterruptedError(Exception):
    """A signal was received during a measurement."""


class Measure(Callback):
    """Adds measurements, such as a validation. They use the averaged weights if the run keeps them.

    Args:
        every: Steps between measurements.
        measure: Returns metrics by name; calls its argument regularly.
        weight_update: Keeps the averaged weights.
        strategy: Every worker measures, so that none waits long for another.
        heartbeat: Called regularly.
    """

    def __init__(
        self,
        every: int,
        measure: Callable[[Callable[[], None]], Mapping[str, float]],
        weight_update: WeightUpdate,
        strategy: tf.distribute.Strategy,
        heartbeat: Callable[[], None],
    ) -> None:
        super().__init__(every)
        self._measure = measure
        self._weight_update = weight_update
        self._is_alone = num_workers(strategy) == 1
        self._heartbeat = heartbeat

    def __call__(self, progress: Progress) -> None:
        """Measures if it is due; raises MeasurementInterruptedError if a signal is received meanwhile."""

        def check_signals() -> None:
            self._heartbeat()
            # Several workers stop together, after the next step.
            if progress.signals and self._is_alone:
                raise MeasurementInterruptedError

        if self.is_due(progress):
            with self._weight_update.averaged_weights():
                progress.measurements |= self._measure(check_signals)


class KeepBestCheckpoint(Callback):
    """Keeps the checkpoint with the best value of a metric, in addition to the newest ones.

    Args:
        saver: Saves the checkpoint of the best step.
        folder: Where the best checkpoint is kept; None on workers other than the chief, which only check their weights.
        metric: "validation_loss", where lower is better, or another, where higher is better.
        measured_on: What else its value depends on, as JSON data. An earlier best checkpoint that was measured
            differently is not compared, and is replaced after the next measurement.
    """

    def __init__(
        self,
        saver: SaveCheckpoints,
        folder: Path | None,
        metric: str,
        measured_on: Mapping[str, object],
    ) -> None:
        super().__init__()
        self._saver = saver
        self._folder = folder
        self._measurement = {"metric": metric, "measured_on": dict(measured_on)}
        self._metric = metric
        self._best = self._comparable(find_best(folder)) if folder else None

    def __call__(self, progress: Progress) -> None:
        """Keeps the checkpoint if the step is the best so far."""
        value = row_of(progress.step, progress.measurements).get(self._metric)
        if value is None:
            return
        # On every worker, so all of them fail together and none waits for the chief.
        self._saver.check_weights(progress.step)
        if self._folder is None or not self._is_better(value):
            return
        # This comes before the row is written: a run that is killed in between measures again, with the same result.
        self._saver.save(progress.step, progress.metrics)
        self._saver.checkpoints.keep_best(progress.step, self._folder, {**self._measurement, "value": value})
        self._best = value

    def _is_better(self, value: float) -> bool:
        if self._best is None:
            return True
        return value < self._best if self._metric == "validation_loss" else value > self._best

    def _comparable(self, record: Mapping[str, Any] | None) -> float | None:
        """The value of the earlier best checkpoint, if it was measured in the same way."""
        if record is None:
            return None
        differing = [name for name, value in self._measurement.items() if record.get(name) != value]
        if differing or not isinstance(record.get("value"), float):
            logger.warning(
                "The best checkpoint in %s was selected by another measurement (%s); the next one replaces it.",
                self._folder,
                ", ".join(f"{name} {record.get(name)}" for name in differing or ["value"]),
            )
            return None
        return record["value"]


class WriteLog(Callback):
    """Writes the metrics of a step to metrics.jsonl and TensorBoard, whenever there are any.

    Args:
        every: Steps between rows.
        log: The log of the run; None on workers other than the chief.
        saver: Knows which step is saved; the row of that step is synced to the disk at once.
    """

    def __init__(self, every: int, log: RunLog | None, saver: SaveCheckpoints) -> None:
        super().__init__(every)
        self._log = log
        self._saver = saver

    def __call__(self, progress: Progress) -> None:
        """Writes a row."""
        if progress.metrics is None or self._log is None:
            return
        speed = {} if progress.clips_per_second is None else {"clips_per_second": progress.clips_per_second}
        is_saved = self._saver.saved_step == progress.step
        self._log.scalars(progress.step, {**progress.metrics, **progress.measurements}, speed, durable=is_saved)


# Relative; a smaller difference does not count as an improvement.
_PLATEAU_THRESHOLD = 1e-4


class Plateau:
    """`torch.optim.lr_scheduler.ReduceLROnPlateau` with its relative threshold and no cooldown; greater is better.

    Args:
        patience: Values in a row without an improvement that are tolerated.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._best, self._num_bad = -math.inf, 0

    def update(self, value: float) -> bool:
        """Adds a value; returns True and resets the count after more than `patience` values without improvement."""
        self._num_bad += 1
        # The first value always counts as an improvement, and so does any after one that was not finite.
        if value > self._best + _PLATEAU_THRESHOLD * abs(self._best) or not math.isfinite(self._best):
            self._best, self._num_bad = value, 0
        if self._num_bad <= self._patience:
            return False
        self._num_bad = 0
        return True


_VALIDATION_LOSS = "validation_loss"
_PLATEAU_FACTOR = 0.2


class ReduceLearningRateOnPlateau(Callback):
    """Lowers the learning rate to a fifth when the validation loss has stopped falling.

    Factor and rule (`Plateau`) are those of the released supervised baseline. The state is computed from the rows of
    metrics.jsonl, so a run resumes exactly.

    Args:
        patience: Validations without an improvement before the learning rate is lowered.
        peak: The learning rate at the start.
        optimizer: Its learning rate is set.
        strategy: All workers call this at the same step, and the chief's state counts.
        rows: Rows of earlier starts, in order; only the chief has them.
    """

    def __init__(
        self,
        patience: int,
        peak: float,
        optimizer: Any,
        strategy: tf.distribute.Strategy,
        rows: Iterable[Mapping[str, float | None]] = (),
    ) -> None:
        super().__init__()
        self._plateau = Plateau(patience)
        self._peak = peak
        self._optimizer = optimizer
        self._strategy = strategy
        self._num_reductions = sum(self._plateau.update(-loss) for loss in _validation_losses(rows))

    def start(self, progress: Progress) -> None:
        """Sets the learning rate of a run that resumes."""
        self._synchronise()

    def __call__(self, progress: Progress) -> None:
        """Checks a validation and sets the learning rate."""
        for loss in _validation_losses([row_of(progress.step, progress.measurements)]):
            self._num_reductions += self._plateau.update(-loss)
            self._synchronise()

    def _synchronise(self) -> None:
        self._num_reductions, *_ = gather_over_workers(self._strategy, self._num_reductions)
        self._optimizer.learning_rate.assign(self._peak * _PLATEAU_FACTOR**self._num_reductions)


class StopEarly(Callback):
    """Ends the run when the validation loss has not fallen for some validations.

    The released supervised baseline creates an early stopping with a patience of 20 epochs but never uses it. The state
    is computed from the rows of metrics.jsonl, so a run resumes exactly.

    Args:
        patience: Validations in a row without a lower loss.
        strategy: All workers call this at the same step, and the chief's state counts.
        rows: Rows of earlier starts, in order; only the chief has them.
    """

    def __init__(
        self, patience: int, strategy: tf.distribute.Strategy, rows: Iterable[Mapping[str, float | None]] = ()
    ) -> None:
        super().__init__()
        self._patience = patience
        self._strategy = strategy
        self._best, self._num_since_best = math.inf, 0
        for loss in _validation_losses(rows):
            self._observe(loss)

    def start(self, progress: Progress) -> None:
        """Ends a run that had already ended early."""
        self._synchronise(progress)

    def __call__(self, progress: Progress) -> None:
        """Checks a validation."""
        for loss in _validation_losses([row_of(progress.step, progress.measurements)]):
            self._observe(loss)
            self._synchronise(progress)

    def _synchronise(self, progress: Progress) -> None:
        self._num_since_best, *_ = gather_over_workers(self._strategy, self._num_since_best)
        progress.has_ended = self._num_since_best >= self._patience

    def _observe(self, loss: float) -> None:
        self._num_since_best = 0 if loss < self._best else self._num_since_best + 1
        self._best = min(self._best, loss)


def _validation_losses(rows: Iterable[Mapping[str, float | None]]) -> list[float]:
    """The validation losses in rows; null, which means that a value was not finite, becomes infinity."""
    losses = [row[_VALIDATION_LOSS] for row in rows if _VALIDATION_LOSS in row]
    return [math.inf if loss is None else loss for loss in losses]


_MIN_STEPS, _MAX_SKIPPED_FRACTION = 10, 0.1


class WarnOfSkippedSteps(Callback):
    """Warns about steps that `--on-nonfinite skip` skipped.

    It warns whenever their number has doubled, and when the fraction between two rows first exceeds a tenth. So a run
    that skips all of its steps warns a dozen times, not at every row.

    Args:
        first_step: Steps done before.
        num_skipped: How many of them were skipped.
    """

    def __init__(self, first_step: int, num_skipped: int) -> None:
        super().__init__()
        self._step = first_step
        self._num_skipped = self._num_reported = num_skipped
        self._were_many = False

    def __call__(self, progress: Progress) -> None:
        """Checks the number of skipped steps in the metrics."""
        if progress.metrics is None:
            return
        step, num_skipped = progress.step, int(progress.metrics["num_skipped"])
        num_new, num_steps = num_skipped - self._num_skipped, step - self._step
        are_many = num_steps >= _MIN_STEPS and num_new > _MAX_SKIPPED_FRACTION * num_steps
        if num_new and (num_skipped >= 2 * self._num_reported or (are_many and not self._were_many)):
            logger.warning(
                "%d steps were skipped since the run began, %d of the last %d, because their loss or gradient was not "
                "finite; if this continues, try a lower --learning-rate or higher --temperature in a new --workdir.",
                num_skipped,
                num_new,
                num_steps,
            )
            self._num_reported = num_skipped
        self._step, self._num_skipped, self._were_many = step, num_skipped, are_many
