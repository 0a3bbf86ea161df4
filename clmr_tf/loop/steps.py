"""When to log, to measure, to save, to stop."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from clmr_tf.checkpoint import Checkpoints
from clmr_tf.config import TrainConfig
from clmr_tf.distribution import gather_over_workers, largest_over_workers, num_workers
from clmr_tf.errors import ClmrError
from clmr_tf.loop.clip_rate import ClipRate
from clmr_tf.loop.convergence import Convergence
from clmr_tf.loop.execution import build_execution
from clmr_tf.loop.failures import NonFiniteError, failed_step, lost_worker, unsaved_by_chief
from clmr_tf.loop.measurement import Measurement, Record
from clmr_tf.loop.stop_signals import StoppedBySignalError, noted_signals
from clmr_tf.trained_model import TrainedModel

logger = logging.getLogger(__name__)

AfterStep = Callable[[int, int, dict[str, float] | None], None]
"""Takes the number of steps done and of those to do, and the scalars where the step was logged."""


class _MeasurementStoppedError(Exception):
    """A signal came while something was measured."""


class TrainingLoop:
    """Trains a model to the last step of its configuration.

    What earlier steps leave in the logs is written out before a checkpoint, and what its own step leaves is kept until
    it is logged, so that a run which is killed and resumes has lost nothing and repeats nothing.

    Args:
        model: Compiled and built; its `train_step` is the step.
        strategy: The replicas that share a batch.
        dataset: Their batches beginning with the one of `first_step`, without end.
        config: Says how long to train, how often to log and to save.
        first_step: Steps done before.
        checkpoints: Saves every `checkpoint_every` steps, at the end, and when a signal stops the run.
        record: Gets the step's scalars and the rate in clips per second every `log_every` steps, and the best
            checkpoint, which is saved whatever the step. None on a worker that is not the chief.
        convergence: Told what is measured, sets the learning rate, and may end the run before its last step.
        measurements: What to measure on the way; each worker does, so that none waits long for another.
        boundaries: Further steps after which `after_step` has to be called.
        progressed: Called whenever something is done.
        after_step: Called after every execution, so after every step if `steps_per_execution` is 1.
    """

    def __init__(
        self,
        model: TrainedModel,
        strategy: tf.distribute.Strategy,
        dataset: tf.data.Dataset,
        config: TrainConfig,
        *,
        first_step: int,
        checkpoints: Checkpoints,
        record: Record | None,
        convergence: Convergence,
        measurements: Sequence[Measurement] = (),
        boundaries: Sequence[int] = (),
        progressed: Callable[[], None] = lambda: None,
        after_step: AfterStep = lambda *_: None,
    ) -> None:
        self._model = model
        self._strategy = strategy
        self._dataset = dataset
        self._config = config
        self._first_step = self._saved_step = self._checked_step = first_step
        self._failed_step = -1
        self._checkpoints = checkpoints
        self._record = record
        self._convergence = convergence
        self._measurements = measurements
        self._boundaries = boundaries
        self._progressed = progressed
        self._after_step = after_step
        # Of a song there are two views, or one crop with its labels.
        self._rate = ClipRate(clips_per_step=config.batch_size * (1 if config.has_labels else 2))

    def run(self) -> int:
        """Does the steps.

        Returns:
            How many the run has now: all, or fewer if it has ended early.

        Raises:
            StoppedBySignalError: After SIGTERM or SIGINT, once the state is saved.
            NonFiniteError: If a loss or gradient is not finite and the configuration says stop, or the weights are no
                longer; these are no checkpoint of the run.
            ClmrError: If a step fails.
        """
        config, strategy = self._config, self._strategy
        several_steps = config.steps_per_execution > 1
        jits_step = config.jit and strategy.num_replicas_in_sync == 1
        execute = build_execution(self._model, strategy, several_steps=several_steps, jit=jits_step)
        batches = iter(self._dataset)
        step, stop_signal = self._first_step, 0
        with noted_signals() as self._signals:
            try:
                self._complete_pending_row()
                self._convergence.apply(strategy, self._model.optimizer.learning_rate)
                while step < config.steps and not stop_signal and not self._convergence.has_ended:
                    num_steps = self._next_stop(step) - step
                    step += num_steps
                    try:
                        watched = execute(batches, tf.constant(num_steps))
                    except tf.errors.OpError as error:
                        raise failed_step(error, step, self._saved_step, num_workers(strategy)) from error
                    stop_signal = largest_over_workers(strategy, self._signals[0] if self._signals else 0)
                    self._progressed()
                    self._rate.count_steps(num_steps)
                    self._look_after(step, watched, is_stopped=stop_signal > 0)
            except _MeasurementStoppedError:
                raise StoppedBySignalError(self._saved_step, self._signals[0]) from None
            if self._saved_step != step:
                # It has ended early, after a step that was not to be saved otherwise.
                self._save_together(step, None, must_succeed=True)
            # Until the chief has written everything: a worker that has left is a worker that is lost.
            largest_over_workers(strategy, 0)
        if stop_signal and step < config.steps:
            raise StoppedBySignalError(step, stop_signal)
        return step

    def _next_stop(self, step: int) -> int:
        """The step up to which there is nothing to do but training."""
        config = self._config
        intervals = [config.log_every, config.checkpoint_every, *(one.every for one in self._measurements)]
        stops = [(step // every + 1) * every for every in intervals]
        stops += [boundary for boundary in self._boundaries if boundary > step]
        return min(*stops, step + config.steps_per_execution, config.steps)

    def _look_after(self, step: int, watched: dict[str, tf.Tensor], *, is_stopped: bool) -> None:
        """Checks, saves, measures and logs what is due after a step."""
        is_last = step == self._config.steps
        logs = step % self._config.log_every == 0 or is_last or bool(self._due(step))
        saves = step % self._config.checkpoint_every == 0 or is_last or is_stopped
        # Reading a value waits for the device, so it is not done at every step.
        if logs or saves:
            self._check_finite(step)
        scalars = {name: float(value) for name, value in watched.items()} if logs else None
        speed = self._rate.read() if logs else {}
        with self._rate.paused():
            if saves:
                self._save_together(step, scalars, must_succeed=is_last or is_stopped)
            if logs:
                scalars = self._log_row(step, scalars, speed)
                if self._due(step):
                    self._convergence.apply(self._strategy, self._model.optimizer.learning_rate)
            self._after_step(step, self._config.steps, scalars and {**scalars, **speed})

    def _due(self, step: int) -> list[Measurement]:
        is_last = step == self._config.steps
        return [one for one in self._measurements if is_last or step % one.every == 0]

    def _complete_pending_row(self) -> None:
        scalars = self._record.pending.read(self._first_step) if self._record else None
        if scalars is not None:
            self._log_row(self._first_step, scalars, {})

    def _log_row(self, step: int, scalars: dict[str, float], speed: dict[str, float]) -> dict[str, float]:
        """Measures what is due, on what an export takes, logs the row of a step, and keeps its checkpoint if best."""
        measured, due = dict(scalars), self._due(step)
        try:
            with self._model.weight_update.averaged_weights() if due else contextlib.nullcontext():
                for measurement in due:
                    measured |= measurement.measure(self._while_measuring)
        except _MeasurementStoppedError:
            if self._saved_step != step:
                self._save(step, scalars, must_succeed=True)
            raise
        if self._record:
            row = self._record.log.scalars(step, measured)
            self._convergence.observe(row)
            self._record.log.speed(step, speed)
            if self._record.best.improves(row):
                if step not in (self._saved_step, self._failed_step):
                    self._save(step, scalars, must_succeed=False)
                if self._saved_step == step:
                    with self._tolerated_failure(step, must_succeed=False):
                        self._record.best.keep(step, row)
            if self._saved_step == step:
                self._record.log.flush()
            if not self._record.log.is_behind:
                self._record.pending.drop()
        return measured

    def _while_measuring(self) -> None:
        self._progressed()
        # Several workers stop together, after the next step.
        if self._signals and num_workers(self._strategy) == 1:
            raise _MeasurementStoppedError

    def _check_finite(self, step: int) -> None:
        nonfinite = int(self._model.weight_update.first_nonfinite.numpy())
        if nonfinite:
            looked_at = self._checked_step + 1, step
            raise NonFiniteError.of_step(self._first_step + nonfinite, looked_at, self._saved_step)
        self._checked_step = step

    def _save_together(self, step: int, scalars: dict[str, float] | None, *, must_succeed: bool) -> None:
        """Saves, and tells the workers beside the chief whether it was: they shall not say so before."""
        try:
            self._save(step, scalars, must_succeed=must_succeed)
        finally:
            try:
                of_chief, *_ = gather_over_workers(self._strategy, int(self._saved_step == step))
            except ClmrError as error:
                raise lost_worker(step, self._saved_step) from error
        if self._record is None:
            if of_chief:
                self._saved_step = step
            elif must_succeed or self._config.on_failed_save == "stop":
                raise unsaved_by_chief(step, self._saved_step)

    def _save(self, step: int, scalars: dict[str, float] | None, *, must_succeed: bool) -> None:
        weights = self._model.trainable_variables
        if not tf.reduce_all([tf.reduce_all(tf.math.is_finite(weight)) for weight in weights]):
            raise NonFiniteError.of_weights(step, self._saved_step)
        if self._record is None:
            return
        with self._tolerated_failure(step, must_succeed=must_succeed):
            with self._checkpoints.explained_failure(
                f"The metrics up to step {step}, and so the step, could not be saved"
            ):
                self._record.log.flush()
                if scalars is not None:
                    self._record.pending.keep(step, scalars)
            self._checkpoints.save(step)
            self._saved_step = step

    @contextlib.contextmanager
    def _tolerated_failure(self, step: int, *, must_succeed: bool) -> Iterator[None]:
        """Lets training go on after a failure to write, if the configuration says so."""
        try:
            yield
        except ClmrError as error:
            if must_succeed or self._config.on_failed_save == "stop":
                raise
            self._failed_step = step
            logger.warning("%s Training goes on.", error)
