"""The loop over training steps, and how it ends."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from clmr_tf.config.train import TrainConfig
from clmr_tf.console import SignalHandler, restore_signal_handler
from clmr_tf.data.crops import BatchShard
from clmr_tf.train.callbacks import Callback, MeasurementInterruptedError, Progress, SaveCheckpoints
from clmr_tf.train.distribution import largest_over_workers, num_workers, worker_index
from clmr_tf.train.failures import NonFiniteError, StoppedBySignalError, failed_step
from clmr_tf.train.step import TrainingModel


@contextlib.contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT in the list that it yields, instead of acting on them; a second signal acts as usual.

    Outside the main thread, which is the only one that may handle signals, the list stays empty.
    """
    received: list[int] = []
    before: dict[int, SignalHandler] = {}

    def record(number: int, _frame: object) -> None:
        if received:
            restore_signal_handler(number, before[number])
            signal.raise_signal(number)
        received.append(number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, record)
    try:
        yield received
    finally:
        for number, handler in before.items():
            restore_signal_handler(number, handler)


class ClipRate:
    """Clips per second of the training itself, excluding compilation in the first step and time spent in callbacks.

    Args:
        clips_per_step: Number of views that a step trains on.
    """

    def __init__(self, clips_per_step: int) -> None:
        self._clips_per_step = clips_per_step
        self._since: float | None = None
        self._num_steps = 0

    def count_steps(self, num_steps: int) -> None:
        """Counts steps; the first call only starts the clock, since its time includes compilation."""
        if self._since is None:
            self._since = time.monotonic()
        else:
            self._num_steps += num_steps

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time inside the block."""
        start = time.monotonic()
        yield
        if self._since is not None:
            self._since += time.monotonic() - start

    def read(self) -> float | None:
        """The rate since the last call; None if no step was counted."""
        if self._num_steps == 0:
            return None
        rate = self._clips_per_step * self._num_steps / (time.monotonic() - self._since)
        self._since, self._num_steps = time.monotonic(), 0
        return rate


class TrainingLoop:
    """Trains a model and calls the callbacks between steps.

    Args:
        model: Compiled and built; its `train_step` is the step.
        strategy: The replicas that share a batch.
        dataset: Their endless batches, starting at the next step.
        config: The run.
        num_steps: Its length.
        saver: Saves checkpoints; also one of the callbacks.
        callbacks: What happens between steps, in this order.
        heartbeat: Called after every execution of steps.
        report: Called after the callbacks of every execution of steps.
    """

    def __init__(
        self,
        model: TrainingModel,
        strategy: tf.distribute.Strategy,
        dataset: tf.data.Dataset,
        config: TrainConfig,
        num_steps: int,
        saver: SaveCheckpoints,
        callbacks: Sequence[Callback],
        heartbeat: Callable[[], None] = lambda: None,
        report: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._model = model
        self._strategy = strategy
        self._dataset = dataset
        self._config = config
        self._saver = saver
        self._callbacks = callbacks
        self._heartbeat = heartbeat
        self._report = report
        self._first_step = self._checked_step = saver.saved_step
        self._progress = Progress(saver.saved_step, num_steps)
        # Two views of a song, or one crop with its labels.
        self._rate = ClipRate(clips_per_step=config.batch_size * (1 if config.has_labels else 2))

    def run(self, unlogged: dict[str, float] | None = None) -> int:
        """Trains up to the last step.

        Args:
            unlogged: Metrics of the restored step, if the previous process was killed after it saved the checkpoint and
                before it wrote the row in the log; empty on a worker that does not log. Callbacks that are due at that
                step are called first.

        Returns:
            The number of steps of the run: all, or fewer if a callback ended it.

        Raises:
            StoppedBySignalError: After SIGTERM or SIGINT, once the state is saved.
            NonFiniteError: If a loss or gradient is not finite and the configuration says to stop, or if a weight is
                not finite; such weights never become a checkpoint of the run.
            ClmrError: If a step fails.
        """
        progress, saver = self._progress, self._saver
        several_steps = self._config.steps_per_execution > 1
        jits_step = self._config.jit and self._strategy.num_replicas_in_sync == 1
        execute = build_execution(self._model, self._strategy, several_steps=several_steps, jit=jits_step)
        batches = iter(self._dataset)
        with deferred_signals() as progress.signals:
            try:
                for callback in self._callbacks:
                    callback.start(progress)
                if unlogged is not None:
                    progress.metrics = unlogged
                    self._call_back()
                while progress.step < progress.num_steps and not progress.stop_signal and not progress.has_ended:
                    num_steps = self._next_stop() - progress.step
                    progress.step += num_steps
                    try:
                        metrics = execute(batches, tf.constant(num_steps))
                    except tf.errors.OpError as error:
                        num_processes = num_workers(self._strategy)
                        raise failed_step(error, progress.step, saver.saved_step, num_processes) from error
                    own_signal = progress.signals[0] if progress.signals else 0
                    progress.stop_signal = largest_over_workers(self._strategy, own_signal)
                    self._heartbeat()
                    self._rate.count_steps(num_steps)
                    self._read_metrics(metrics)
                    self._call_back()
                    with self._rate.paused():
                        self._report(progress)
            except MeasurementInterruptedError:
                saver.save(progress.step, progress.metrics)
                raise StoppedBySignalError(progress.step, progress.signals[0]) from None
            # A callback may have ended the run at a step for which no checkpoint was due.
            saver.save_on_all_workers(progress.step, None)
            # A worker that leaves counts as lost, so all wait until the chief has written everything.
            largest_over_workers(self._strategy, 0)
        if progress.stop_signal and progress.step < progress.num_steps:
            raise StoppedBySignalError(progress.step, progress.stop_signal)
        return progress.step

    def _next_stop(self) -> int:
        """The next step at which a callback is due."""
        progress = self._progress
        stops = [callback.next_due_step(progress.step) for callback in self._callbacks]
        return int(min(*stops, progress.step + self._config.steps_per_execution, progress.num_steps))

    def _read_metrics(self, metrics: dict[str, tf.Tensor]) -> None:
        """Reads the metrics if a callback needs them; reading waits for the device, so it is not done at every step."""
        progress = self._progress
        progress.metrics = progress.clips_per_second = None
        progress.measurements = {}
        due = [callback for callback in self._callbacks if callback.is_due(progress)]
        if not due:
            return
        if nonfinite := int(self._model.weight_update.first_nonfinite.numpy()):
            checked_steps = self._checked_step + 1, progress.step
            raise NonFiniteError.of_step(self._first_step + nonfinite, checked_steps, self._saver.saved_step)
        self._checked_step = progress.step
        if any(callback.needs_metrics for callback in due):
            progress.metrics = {name: float(value) for name, value in metrics.items()}
            progress.clips_per_second = self._rate.read()

    def _call_back(self) -> None:
        with self._rate.paused():
            for callback in self._callbacks:
                callback(self._progress)


def build_execution(
    model: TrainingModel, strategy: tf.distribute.Strategy, *, several_steps: bool, jit: bool
) -> Callable[[Any, tf.Tensor], dict[str, tf.Tensor]]:
    """Builds the graph of the training.

    Args:
        model: Compiled and built in the scope of the strategy.
        strategy: The replicas.
        several_steps: Whether the function is ever called for more than one step.
        jit: Compile the step with XLA; for one replica, since replicas cannot communicate from within XLA.

    Returns:
        A function that takes an iterator of batches and a number of steps, int32 scalar, runs that many steps, and
        returns the metrics of the last, float32 scalars.
    """
    train_step = tf.function(model.train_step, jit_compile=True, autograph=False) if jit else model.train_step

    # Without AutoGraph, which would rewrite the source of the whole model at every start: nothing in the model needs
    # that, and it takes as long as the rest of the tracing.
    @tf.function(autograph=False)
    def one_step(batches: Any) -> dict[str, tf.Tensor]:
        metrics = strategy.run(train_step, args=(batches.get_next(),))
        # The same on all replicas.
        return {name: strategy.experimental_local_results(value)[0] for name, value in metrics.items()}

    @tf.function(autograph=False)
    def execute(batches: Any, num_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        if not several_steps:
            return one_step(batches)
        names = one_step.get_concrete_function(batches).structured_outputs
        _, metrics = tf.while_loop(
            lambda step, _metrics: step < num_steps,
            lambda step, _metrics: (step + 1, one_step(batches)),
            (tf.zeros_like(num_steps), {name: tf.zeros([]) for name in names}),
        )
        return metrics

    return execute


def distributed(
    strategy: tf.distribute.Strategy,
    build_dataset: Callable[[BatchShard], tf.data.Dataset],
    num_micro_batches: int,
) -> tf.data.Dataset:
    """The batches of this process's replicas, each on its device."""
    num_replicas = strategy.num_replicas_in_sync
    num_local_replicas = num_replicas // num_workers(strategy)
    shard = BatchShard(
        num_replicas=num_replicas,
        first_replica=worker_index(strategy) * num_local_replicas,
        num_local_replicas=num_local_replicas,
        num_micro_batches=num_micro_batches,
    )
    return strategy.distribute_datasets_from_function(lambda _: build_dataset(shard))
