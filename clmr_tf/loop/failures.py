"""What went wrong in a step, in one sentence, and what is left of it to find out why."""

import json
from pathlib import Path

import tensorflow as tf

from clmr_tf.checkpoint import Checkpoints
from clmr_tf.errors import ClmrError
from clmr_tf.files import write_atomically

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
