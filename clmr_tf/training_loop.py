"""The loop around the training step: when to log, to save, to stop."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator

import tensorflow as tf

from clmr_tf.checkpoint import Checkpoints
from clmr_tf.config import TrainConfig
from clmr_tf.contrastive import ContrastiveModel
from clmr_tf.errors import ClmrError
from clmr_tf.run_log import RunLog


class StoppedBySignalError(ClmrError):
    """The run was told to stop, has saved its state, and can be resumed."""

    def __init__(self, step: int, signal_number: int) -> None:
        super().__init__(f"Stopped after step {step}, which is saved; the same command goes on from there.")
        self.exit_code = 128 + signal_number


class ClipRate:
    """Clips per second of the training itself, without compiling the first step, saving and showing.

    Args:
        clips_per_step: Views that a step learns from.
    """

    def __init__(self, clips_per_step: int) -> None:
        self._clips_per_step = clips_per_step
        self._since: float | None = None
        self._num_steps = 0

    def count_step(self) -> None:
        """Counts a step that has been done; the first one only starts the clock, for it was compiled."""
        if self._since is None:
            self._since = time.monotonic()
        else:
            self._num_steps += 1

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


def run_steps(
    model: ContrastiveModel,
    dataset: tf.data.Dataset,
    config: TrainConfig,
    *,
    first_step: int,
    checkpoints: Checkpoints,
    log: RunLog,
    after_step: Callable[[int, dict[str, float] | None], None],
) -> None:
    """Trains from `first_step` to `config.steps`.

    Args:
        model: Compiled and built; its `train_step` is the step.
        dataset: Batches beginning with the one of `first_step`, without end.
        config: Says how often to log and to save.
        first_step: Steps done before.
        checkpoints: Saves every `checkpoint_every` steps, at the end, and when a signal stops the run.
        log: Gets the step's scalars and the rate in clips per second every `log_every` steps.
        after_step: Called with the number of steps done, and the scalars where the step was logged.

    Raises:
        StoppedBySignalError: After SIGTERM or SIGINT, once the state is saved.
        ClmrError: If a step fails, or loss, gradient or weights are no longer finite; that is never saved.
    """

    @tf.function
    def train_step(iterator: Iterator) -> dict[str, tf.Tensor]:
        return model.train_step(next(iterator))

    @tf.function
    def weights_are_finite() -> tf.Tensor:
        return tf.reduce_all([tf.reduce_all(tf.math.is_finite(weight)) for weight in model.trainable_variables])

    iterator = iter(dataset)
    rate = ClipRate(clips_per_step=2 * config.batch_size)
    unchecked: list[tuple[tf.Tensor, tf.Tensor]] = []
    saved_step = first_step
    with _noted_signals() as signals:
        for step in range(first_step + 1, config.steps + 1):
            try:
                watched = train_step(iterator)
            except tf.errors.OpError as error:
                raise ClmrError(_failed_step(error, step, saved_step)) from error
            rate.count_step()
            unchecked.append((watched["loss"], watched["gradient_norm"]))
            is_last, stops = step == config.steps, bool(signals)
            saves = is_last or stops or step % config.checkpoint_every == 0
            logs = step % config.log_every == 0 or is_last
            # Reading a value waits for the device, so it is not done at every step.
            if saves or logs:
                _check_finite(unchecked, step, saved_step)
                unchecked.clear()
            if saves and not weights_are_finite():
                raise ClmrError(_not_finite("weights are no longer finite", step, saved_step))
            scalars = None
            if logs:
                scalars = {name: float(value) for name, value in watched.items()}
                scalars |= {"learning_rate": float(model.optimizer.learning_rate), **rate.read()}
                log.scalars(step, scalars)
            with rate.paused():
                if saves:
                    checkpoints.save(step)
                    log.flush()
                    saved_step = step
                after_step(step, scalars)
            if stops and not is_last:
                raise StoppedBySignalError(step, signals[0])


def _check_finite(unchecked: list[tuple[tf.Tensor, tf.Tensor]], last_step: int, saved_step: int) -> None:
    for back, (loss, gradient_norm) in zip(range(len(unchecked) - 1, -1, -1), unchecked, strict=True):
        for name, value in (("loss", float(loss)), ("gradient", float(gradient_norm))):
            if not math.isfinite(value):
                raise ClmrError(_not_finite(f"{name} became {value}", last_step - back, saved_step))


def _not_finite(what: str, step: int, saved_step: int) -> str:
    advice = "try a lower --learning-rate or a higher --temperature in a new --workdir."
    return f"The {what} at step {step}. {_saved(saved_step)}; {advice}"


def _failed_step(error: tf.errors.OpError, step: int, saved_step: int) -> str:
    if isinstance(error, tf.errors.ResourceExhaustedError):
        advice = "use a smaller --batch-size or --width in a new --workdir."
        return f"Step {step} ran out of memory. {_saved(saved_step)}; {advice}"
    # TensorFlow puts the place in the graph first and the reason last.
    lines = [line.strip() for line in str(error.message).splitlines() if line.strip()]
    reason = lines[-1] if lines else type(error).__name__
    return f"Step {step} failed: {reason} {_saved(saved_step)}; if files of the corpus changed, prepare it again."


def _saved(step: int) -> str:
    return f"The state after step {step} is saved" if step else "No step was saved before"


@contextlib.contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Notes SIGTERM and SIGINT in the list it yields instead of acting on them; a second one acts as it would have.

    Beside the main thread, which alone may handle signals, none is noted.
    """
    noted: list[int] = []
    before = {}

    def note(number: int, _frame: object) -> None:
        if noted:
            signal.signal(number, before[number])
            signal.raise_signal(number)
        noted.append(number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
