"""The loop over training steps: when to log, to validate, to save, to stop."""

import contextlib
import dataclasses
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from clmr_tf.config.train import TrainConfig
from clmr_tf.console import SignalHandler, restore_signal_handler
from clmr_tf.data.crops import BatchShare
from clmr_tf.errors import ClmrError
from clmr_tf.files import write_atomically
from clmr_tf.train.callbacks import BestCheckpoint, Convergence
from clmr_tf.train.checkpoints import Checkpoints
from clmr_tf.train.distribution import gather_over_workers, largest_over_workers, num_workers, worker_index
from clmr_tf.train.logs import RunLog, row_of
from clmr_tf.train.step import TrainedModel

logger = logging.getLogger(__name__)


class StoppedBySignalError(ClmrError):
    """The run was told to stop, has saved its state, and can be resumed."""

    def __init__(self, step: int, signal_number: int) -> None:
        super().__init__(f"Stopped after step {step}, which is saved; the same command goes on from there.")
        self.exit_code = 128 + signal_number


@contextlib.contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Notes SIGTERM and SIGINT in the list it yields instead of acting on them; a second one acts as it would have.

    Beside the main thread, which alone may handle signals, none is noted.
    """
    noted: list[int] = []
    before: dict[int, SignalHandler] = {}

    def note(number: int, _frame: object) -> None:
        if noted:
            restore_signal_handler(number, before[number])
            signal.raise_signal(number)
        noted.append(number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            restore_signal_handler(number, handler)


class ClipRate:
    """Clips per second of the training itself, without compiling the first step, saving and showing.

    Args:
        clips_per_step: Views that a step learns from.
    """

    def __init__(self, clips_per_step: int) -> None:
        self._clips_per_step = clips_per_step
        self._since: float | None = None
        self._num_steps = 0

    def count_steps(self, num_steps: int) -> None:
        """Counts steps that have been done; the first call only starts the clock, for they were compiled."""
        if self._since is None:
            self._since = time.monotonic()
        else:
            self._num_steps += num_steps

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out the time inside."""
        start = time.monotonic()
        yield
        if self._since is not None:
            self._since += time.monotonic() - start

    def read(self) -> dict[str, float]:
        """The rate since it was read before, by the name of its curve; nothing where no step was counted."""
        if self._num_steps == 0:
            return {}
        rate = self._clips_per_step * self._num_steps / (time.monotonic() - self._since)
        self._since, self._num_steps = time.monotonic(), 0
        return {"clips_per_second": rate}


Execution = Callable[[Any, tf.Tensor], dict[str, tf.Tensor]]
"""Takes the batches and a number of steps, does them, and gives the scalars of the last."""


def build_execution(
    model: TrainedModel, strategy: tf.distribute.Strategy, *, several_steps: bool, jit: bool
) -> Execution:
    """Makes the graph of the training.

    Args:
        model: Compiled and built in the scope of the strategy.
        strategy: The replicas.
        several_steps: Whether it is ever called for more than one step.
        jit: Compile the step with XLA; for one replica, since replicas cannot talk to each other from within XLA.
    """
    train_step = tf.function(model.train_step, jit_compile=True, autograph=False) if jit else model.train_step

    def one_step(batches: Any) -> dict[str, tf.Tensor]:
        watched = strategy.run(train_step, args=(batches.get_next(),))
        # The same on all replicas.
        return {name: strategy.experimental_local_results(value)[0] for name, value in watched.items()}

    # Without AutoGraph, which would rewrite the source of the whole model at every start: nothing in it needs that, and
    # it takes as long as all the rest of the tracing.
    @tf.function(autograph=False)
    def execute(batches: Any, num_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        if not several_steps:
            return one_step(batches)
        _, watched = tf.while_loop(
            lambda step, _watched: step < num_steps,
            lambda step, _watched: (step + 1, one_step(batches)),
            (tf.zeros_like(num_steps), {name: tf.zeros([]) for name in model.watched}),
        )
        return watched

    return execute


def distributed(
    strategy: tf.distribute.Strategy,
    build_dataset: Callable[[BatchShare], tf.data.Dataset],
    num_micro_batches: int,
) -> tf.data.Dataset:
    """The batches of this process's replicas, each replica's on its device."""
    num_replicas = strategy.num_replicas_in_sync
    num_local_replicas = num_replicas // num_workers(strategy)
    share = BatchShare(
        num_replicas=num_replicas,
        first_replica=worker_index(strategy) * num_local_replicas,
        num_local_replicas=num_local_replicas,
        num_micro_batches=num_micro_batches,
    )
    return strategy.distribute_datasets_from_function(lambda _: build_dataset(share))


REPORT_FILE = "report.json"
_LOST_WORKER = (tf.errors.UnavailableError, tf.errors.DeadlineExceededError, tf.errors.AbortedError)


class NonFiniteError(ClmrError):
    """The loss or the gradient of a step was NaN or infinite, or the weights are since.

    Attributes:
        step: The step, or the one after which the weights were looked at.
        looked_at: First and last of the steps in which it may have happened.
        kept_step: The weights are those after so many steps: before a loss that is not finite, or themselves not.
    """

    def __init__(self, what: str, step: int, looked_at: tuple[int, int], kept_step: int, saved_step: int) -> None:
        advice = "try a lower --learning-rate or a higher --temperature in a new --workdir"
        if kept_step < step:
            advice += ", or --on-nonfinite skip"
        super().__init__(f"The {what} at step {step}. {_saved(saved_step)}; {advice}.")
        self.step = step
        self.looked_at = looked_at
        self.kept_step = kept_step

    @classmethod
    def of_step(cls, step: int, looked_at: tuple[int, int], saved_step: int) -> "NonFiniteError":
        """For a loss or gradient; the weights are those before it."""
        return cls("loss or the gradient was not finite", step, looked_at, step - 1, saved_step)

    @classmethod
    def of_weights(cls, step: int, saved_step: int) -> "NonFiniteError":
        """For weights that were to be saved after a step."""
        return cls("weights are no longer finite", step, (saved_step + 1, step), step, saved_step)


def write_nonfinite_report(
    folder: Path, error: NonFiniteError, checkpoints: Checkpoints | None, item_ids: list[str]
) -> str:
    """Keeps the weights before a loss that was not finite, or those that are not, and what the step learned from.

    The running statistics of batch normalisation, which no weight depends on, are as they are by now.

    Args:
        folder: Gets report.json and, in "checkpoints", the state.
        error: The step.
        checkpoints: Saves into `folder`/checkpoints.
        item_ids: The corpus' items in the batch, in its order.

    Returns:
        The sentence to end with.
    """
    report = {"step": error.step, "steps_looked_at": list(error.looked_at), "items": item_ids}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / REPORT_FILE, json.dumps(report, indent=2) + "\n")
        checkpoints.save(error.kept_step)
    except (OSError, ClmrError):
        return f"{error} The items of its batch and the weights could not be written to {folder}."
    when = "before" if error.kept_step < error.step else "after"
    return f"{error} The items of its batch and the weights {when} it are in {folder}."


def failed_step(error: tf.errors.OpError, step: int, saved_step: int, num_workers: int) -> ClmrError:
    """For what TensorFlow raises in a step."""
    if isinstance(error, tf.errors.ResourceExhaustedError):
        advice = "use a smaller --batch-size or --width, or more --micro-batches, in a new --workdir."
        return ClmrError(f"Step {step} ran out of memory. {_saved(saved_step)}; {advice}")
    if num_workers > 1 and isinstance(error, _LOST_WORKER):
        return lost_worker(step, saved_step)
    # TensorFlow puts the place in the graph first and the reason last.
    lines = [line.strip() for line in str(error.message).splitlines() if line.strip()]
    reason = lines[-1] if lines else type(error).__name__
    return ClmrError(
        f"Step {step} failed: {reason} {_saved(saved_step)}; if files of the corpus changed, prepare it again."
    )


def lost_worker(step: int, saved_step: int) -> ClmrError:
    """For another worker that does not answer any more."""
    advice = "start all workers again, and they resume from there."
    return ClmrError(f"Another worker was lost at step {step}. {_saved(saved_step)}; {advice}")


def unsaved_by_chief(step: int, saved_step: int) -> ClmrError:
    """For a worker whose chief could not write."""
    return ClmrError(f"The chief could not save the state after step {step}, and said why. {_saved(saved_step)}.")


def _saved(step: int) -> str:
    return f"The state after step {step} is saved" if step else "No step was saved before"


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Something that is measured now and then, and at the end of the run.

    Attributes:
        every: Steps between two measurements.
        measure: Gives scalars by name, which are logged with those of the step; calls its argument now and then.
    """

    every: int
    measure: Callable[[Callable[[], None]], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Record:
    """Where the chief keeps what a run leaves; other workers have none.

    Attributes:
        log: Curves and metrics.jsonl.
        best: The best checkpoint.
        unlogged: The metrics of the first step, if a kill came between its checkpoint and its row.
    """

    log: RunLog
    best: BestCheckpoint
    unlogged: dict[str, float] | None = None


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
                if self._record and self._record.unlogged is not None:
                    self._log_row(self._first_step, self._record.unlogged, {})
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
                self._save_together(step, None)
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
                self._save_together(step, scalars)
            if logs:
                scalars = self._log_row(step, scalars, speed)
                if self._due(step):
                    self._convergence.apply(self._strategy, self._model.optimizer.learning_rate)
            self._after_step(step, self._config.steps, scalars and {**scalars, **speed})

    def _due(self, step: int) -> list[Measurement]:
        is_last = step == self._config.steps
        return [one for one in self._measurements if is_last or step % one.every == 0]

    def _log_row(self, step: int, scalars: dict[str, float], speed: dict[str, float]) -> dict[str, float]:
        """Measures what is due, on what an export takes, logs the row of a step, and keeps its checkpoint if best."""
        measured, due = dict(scalars), self._due(step)
        try:
            with self._model.weight_update.averaged_weights() if due else contextlib.nullcontext():
                for measurement in due:
                    measured |= measurement.measure(self._while_measuring)
        except _MeasurementStoppedError:
            if self._saved_step != step:
                self._save(step, scalars)
            raise
        if self._record:
            row = row_of(step, measured)
            # Before the row is written: a run that is killed in between measures again and finds the same.
            if self._record.best.improves(row):
                if self._saved_step != step:
                    self._save(step, scalars)
                self._record.best.keep(step, row)
            self._record.log.scalars(step, measured)
            self._convergence.observe(row)
            self._record.log.speed(step, speed)
            if self._saved_step == step:
                self._record.log.flush()
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

    def _save_together(self, step: int, scalars: dict[str, float] | None) -> None:
        """Saves, and tells the workers beside the chief whether it was: they shall not say so before."""
        try:
            self._save(step, scalars)
        finally:
            try:
                of_chief, *_ = gather_over_workers(self._strategy, int(self._saved_step == step))
            except ClmrError as error:
                raise lost_worker(step, self._saved_step) from error
        if self._record is None:
            if not of_chief:
                raise unsaved_by_chief(step, self._saved_step)
            self._saved_step = step

    def _save(self, step: int, scalars: dict[str, float] | None) -> None:
        weights = self._model.trainable_variables
        if not tf.reduce_all([tf.reduce_all(tf.math.is_finite(weight)) for weight in weights]):
            raise NonFiniteError.of_weights(step, self._saved_step)
        if self._record is None:
            return
        with self._checkpoints.explained_failure(f"The metrics up to step {step}, and so the step, could not be saved"):
            self._record.log.flush()
        self._checkpoints.save(step, scalars)
        self._saved_step = step
