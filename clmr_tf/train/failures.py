"""Errors that stop a training before its end, with one sentence each, and the report on a step that is not finite."""

import json
from pathlib import Path

import tensorflow as tf

from clmr_tf.errors import ClmrError
from clmr_tf.files import write_atomically
from clmr_tf.train.checkpoints import Checkpoints

REPORT_FILE = "report.json"
_LOST_WORKER = (tf.errors.UnavailableError, tf.errors.DeadlineExceededError, tf.errors.AbortedError)
_LARGEST_SKIPPED_FRACTION = 0.5


class StoppedBySignalError(ClmrError):
    """A signal stopped the run; its state is saved and it can be resumed."""

    def __init__(self, step: int, signal_number: int) -> None:
        super().__init__(f"Stopped after step {step}, which is saved; the same command resumes the run.")
        self.exit_code = 128 + signal_number


class NonFiniteError(ClmrError):
    """The loss or gradient of a step was NaN or infinite, or the weights are.

    Attributes:
        step: The step, or the one after which the weights were checked.
        checked_steps: The first and the last step in which it may have happened.
        kept_step: The step after which the weights are saved: the one before a loss that is not finite, or the one
            whose weights are not finite.
    """

    def __init__(
        self, problem: str, step: int, checked_steps: tuple[int, int], kept_step: int, saved_step: int
    ) -> None:
        advice = "try a lower --learning-rate or a higher --temperature in a new --workdir"
        if kept_step < step:
            advice += ", or --on-nonfinite skip"
        super().__init__(f"The {problem} at step {step}. {_saved(saved_step)}; {advice}.")
        self.step = step
        self.checked_steps = checked_steps
        self.kept_step = kept_step

    @classmethod
    def of_step(cls, step: int, checked_steps: tuple[int, int], saved_step: int) -> "NonFiniteError":
        """The error of a step whose loss or gradient is not finite; the weights before it are kept."""
        return cls("loss or the gradient was not finite", step, checked_steps, step - 1, saved_step)

    @classmethod
    def of_weights(cls, step: int, saved_step: int) -> "NonFiniteError":
        """The error of weights that are not finite when they should be saved after a step."""
        return cls("weights are no longer finite", step, (saved_step + 1, step), step, saved_step)


def write_nonfinite_report(folder: Path, error: NonFiniteError, checkpoints: Checkpoints, item_ids: list[str]) -> str:
    """Records which items the step trained on, and saves the weights before or after it.

    The current running statistics of batch normalisation are saved, since no weight depends on them.

    Args:
        folder: Where report.json and, in "checkpoints", the state are written.
        error: The step.
        checkpoints: Saves into `folder`/checkpoints.
        item_ids: The items of the batch, in its order.

    Returns:
        The sentence that the run ends with.
    """
    report = {"step": error.step, "checked_steps": list(error.checked_steps), "items": item_ids}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / REPORT_FILE, json.dumps(report, indent=2) + "\n")
        checkpoints.save(error.kept_step)
    except (OSError, ClmrError):
        return f"{error} The items of its batch and the weights could not be written to {folder}."
    when = "before" if error.kept_step < error.step else "after"
    return f"{error} The items of its batch and the weights {when} it are in {folder}."


def failed_step(error: tf.errors.OpError, step: int, saved_step: int, num_workers: int) -> ClmrError:
    """The error that replaces an error of TensorFlow in a step."""
    if isinstance(error, tf.errors.ResourceExhaustedError):
        advice = "use a smaller --batch-size or --width, or more --micro-batches, in a new --workdir."
        return ClmrError(f"Step {step} ran out of memory. {_saved(saved_step)}; {advice}")
    if num_workers > 1 and isinstance(error, _LOST_WORKER):
        return lost_worker(step, saved_step)
    # TensorFlow's messages start with the location in the graph and end with the reason.
    lines = [line.strip() for line in str(error.message).splitlines() if line.strip()]
    reason = lines[-1] if lines else type(error).__name__
    return ClmrError(
        f"Step {step} failed: {reason} {_saved(saved_step)}; if files of the corpus changed, prepare it again."
    )


def lost_worker(step: int, saved_step: int) -> ClmrError:
    """The error if another worker no longer answers."""
    advice = "start all workers again to resume from there."
    return ClmrError(f"Another worker was lost at step {step}. {_saved(saved_step)}; {advice}")


def unsaved_by_chief(step: int, saved_step: int) -> ClmrError:
    """The error on a worker if the chief could not save."""
    return ClmrError(f"The chief could not save the state after step {step}; see its error. {_saved(saved_step)}.")


def require_trained(workdir: Path, num_steps: int, num_skipped: int) -> None:
    """Raises ClmrError if a run has skipped more than half of its steps.

    Args:
        workdir: Folder of the run.
        num_steps: Number of its steps.
        num_skipped: How many of them `--on-nonfinite skip` skipped.
    """
    if num_skipped > _LARGEST_SKIPPED_FRACTION * num_steps:
        raise ClmrError(
            f"{num_skipped} of the {num_steps} steps of the run in {workdir} were skipped because their loss or "
            "gradient was not finite, so it has hardly learned anything; train again with a lower --learning-rate or a "
            "higher --temperature in a new --workdir."
        )


def _saved(step: int) -> str:
    return f"The state after step {step} is saved" if step else "No step was saved before"
