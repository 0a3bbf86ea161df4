"""How fast a training is."""

import contextlib
import time
from collections.abc import Iterator


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
