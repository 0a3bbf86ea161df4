"""A profile of some steps, for TensorBoard."""

import logging
from pathlib import Path

import tensorflow as tf

logger = logging.getLogger(__name__)

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
