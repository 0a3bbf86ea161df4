"""When to log, to measure, to save, to stop."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

import tensorflow as tf

from clmr_tf.checkpoint import Checkpoints
from clmr_tf.config import TrainConfig
from clmr_tf.contrastive import ContrastiveModel
from clmr_tf.distribution import largest_over_workers, num_workers
from clmr_tf.errors import ClmrError
from clmr_tf.loop.best_checkpoint import BestCheckpoint
from clmr_tf.loop.clip_rate import ClipRate
from clmr_tf.loop.execution import build_execution
from clmr_tf.loop.failures import NonFiniteError, failed_step, not_finite
from clmr_tf.loop.stop_signals import StoppedBySignalError, noted_signals
from clmr_tf.loop.watchdog import Watchdog
from clmr_tf.run_log import RunLog

logger = logging.getLogger(__name__)

AfterStep = Callable[[int, int, dict[str, float] | None], None]
"""Takes the number of steps done and of those to do, and the scalars where the step was logged."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Something that is measured now and then, and at the end of the run.

    Attributes:
        every: Steps between two measurements.
        measure: Gives scalars by name, which are logged with those of the step.
    """

    every: int
    measure: Callable[[], Mapping[str, float]]


class TrainingLoop:
    """Trains a model to the last step of its configuration.

    Everything that a step leaves in the logs is written out before the checkpoint of that step, so that a run which
    is killed and resumes has lost nothing and repeats nothing.

    Args:
        model: Compiled and built; its `train_step` is the step.
        strategy: The replicas that share a batch.
        dataset: Their batches beginning with the one of `first_step`, without end.
        config: Says how long to train, how often to log and to save.
        first_step: Steps done before.
        checkpoints: Saves every `checkpoint_every` steps, at the end, and when a signal stops the run.
        log: Gets the step's scalars and the rate in clips per second every `log_every` steps. None on a worker
            that is not the chief, which writes nothing.
        best: Keeps the best checkpoint; one that is better than all before is saved whatever the step.
        measurements: What to measure on the way, on the chief.
        boundaries: Further steps after which `after_step` has to be called.
        after_step: Called after every execution, so after every step if `steps_per_execution` is 1.
    """

    def __init__(
        self,
        model: ContrastiveModel,
        strategy: tf.distribute.Strategy,
        dataset: tf.data.Dataset,
        config: TrainConfig,
        *,
        first_step: int,
        checkpoints: Checkpoints,
        log: RunLog | None,
        best: BestCheckpoint | None = None,
        measurements: Sequence[Measurement] = (),
        boundaries: Sequence[int] = (),
        after_step: AfterStep = lambda *_: None,
    ) -> None:
        self._model = model
        self._strategy = strategy
        self._dataset = dataset
        self._config = config
        self._first_step = self._saved_step = self._checked_step = first_step
        self._checkpoints = checkpoints
        self._log = log
        self._best = best
        self._measurements = measurements
        self._boundaries = boundaries
        self._after_step = after_step
        self._rate = ClipRate(clips_per_step=2 * config.batch_size)

    def run(self) -> None:
        """Does the steps.

        Raises:
            StoppedBySignalError: After SIGTERM or SIGINT, once the state is saved.
            NonFiniteError: If a loss or gradient is not finite and the configuration says stop.
            ClmrError: If a step fails, or the weights are no longer finite; that is never saved.
        """
        config, strategy = self._config, self._strategy
        several_steps = config.steps_per_execution > 1
        jits_step = config.jit and strategy.num_replicas_in_sync == 1
        execute = build_execution(self._model, strategy, several_steps=several_steps, jit=jits_step)
        batches = iter(self._dataset)
        step = self._first_step
        with noted_signals() as signals, _watched(strategy, config) as progressed:
            while step < config.steps:
                num_steps = self._next_stop(step) - step
                step += num_steps
                try:
                    watched = execute(batches, tf.constant(num_steps))
                    stop_signal = largest_over_workers(strategy, signals[0] if signals else 0)
                except tf.errors.OpError as error:
                    raise failed_step(error, step, self._saved_step, num_workers(strategy)) from error
                progressed()
                self._rate.count_steps(num_steps)
                self._look_after(step, watched, is_stopped=stop_signal > 0)
                if stop_signal and step < config.steps:
                    break
            # Until the chief has written everything: a worker that has left is a worker that is lost.
            largest_over_workers(strategy, 0)
        if step < config.steps:
            raise StoppedBySignalError(step, stop_signal)

    def _next_stop(self, step: int) -> int:
        """The step up to which there is nothing to do but training."""
        config = self._config
        intervals = [config.log_every, config.checkpoint_every, *(one.every for one in self._measurements)]
        stops = [(step // every + 1) * every for every in intervals]
        stops += [boundary for boundary in self._boundaries if boundary > step]
        return min(*stops, step + config.steps_per_execution, config.steps)

    def _look_after(self, step: int, watched: dict[str, tf.Tensor], *, is_stopped: bool) -> None:
        """Checks, measures, logs and saves what is due after a step."""
        is_last = step == self._config.steps
        due = [one for one in self._measurements if is_last or step % one.every == 0]
        logs = step % self._config.log_every == 0 or is_last or bool(due)
        saves = step % self._config.checkpoint_every == 0 or is_last or is_stopped
        # Reading a value waits for the device, so it is not done at every step.
        if logs or saves:
            self._check_finite(step)
        scalars, row = {name: float(value) for name, value in watched.items()} if logs else None, {}
        speed = self._rate.read() if logs else {}
        with self._rate.paused():
            if logs and self._log:
                for measurement in due:
                    scalars |= measurement.measure()
                row = self._log.scalars(step, scalars)
                self._log.speed(step, speed)
            if saves or (self._best and self._best.improves(row)):
                self._save(step, row, must_succeed=is_last or is_stopped)
            self._after_step(step, self._config.steps, scalars and {**scalars, **speed})

    def _check_finite(self, step: int) -> None:
        nonfinite = int(self._model.weight_update.first_nonfinite.numpy())
        if nonfinite:
            raise NonFiniteError(self._first_step + nonfinite, (self._checked_step + 1, step), self._saved_step)
        self._checked_step = step

    def _save(self, step: int, row: dict[str, float], *, must_succeed: bool) -> None:
        weights = self._model.trainable_variables
        if not tf.reduce_all([tf.reduce_all(tf.math.is_finite(weight)) for weight in weights]):
            raise not_finite("weights are no longer finite", step, self._saved_step)
        if self._log:
            self._log.flush()
            try:
                self._checkpoints.save(step)
            except ClmrError as error:
                if must_succeed or self._config.on_failed_save == "stop":
                    raise
                logger.warning("%s Training goes on.", error)
                return
            if self._best:
                self._best.keep(step, row)
        self._saved_step = step


@contextlib.contextmanager
def _watched(strategy: tf.distribute.Strategy, config: TrainConfig) -> Iterator[Callable[[], None]]:
    """Ends the process if the other workers are lost; yields what is to be called after every step."""
    if num_workers(strategy) == 1:
        yield lambda: None
        return
    lost = (
        f"No step was finished for {config.worker_timeout_seconds:g} seconds, so another worker is taken for lost; "
        "start all workers again, and they resume from the newest checkpoint."
    )
    with Watchdog(config.worker_timeout_seconds, lost) as watchdog:
        yield watchdog.report
