"""Says that steps were left out, before a run has done little else for days, and does not call that a training."""

import logging
from pathlib import Path

from clmr_tf.errors import ClmrError

logger = logging.getLogger(__name__)

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
