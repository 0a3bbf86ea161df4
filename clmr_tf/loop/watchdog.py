"""Notices that other workers are lost, which leaves this one waiting for them in a place that no signal reaches."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator

import tensorflow as tf

from clmr_tf.console import EXIT_FAILURE
from clmr_tf.distribution import num_workers


class Watchdog:
    """Ends the process when nothing is reported for too long.

    Args:
        timeout_seconds: The longest time between two reports.
        message: The last words; one sentence for standard error.
    """

    def __init__(self, timeout_seconds: float, message: str) -> None:
        self._timeout_seconds = timeout_seconds
        self._message = message
        self._reported = threading.Event()
        self._is_over = False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._reported.set()
        self._thread.join()

    def report(self) -> None:
        """Says that something was done."""
        self._reported.set()

    def _watch(self) -> None:
        while self._reported.wait(self._timeout_seconds):
            self._reported.clear()
            if self._is_over:
                return
        # No exception: the main thread waits in native code for a worker that will never answer.
        sys.stderr.write(f"error: {self._message}\n")
        sys.stderr.flush()
        os._exit(EXIT_FAILURE)


@contextlib.contextmanager
def watched_workers(strategy: tf.distribute.Strategy, timeout_seconds: float) -> Iterator[Callable[[], None]]:
    """Ends the process if the other workers are lost; yields what is to be called whenever something is done."""
    if num_workers(strategy) == 1:
        yield lambda: None
        return
    lost = (
        f"Nothing was finished for {timeout_seconds:g} seconds, so another worker is taken for lost; "
        "start all workers again, and they resume from the newest checkpoint."
    )
    with Watchdog(timeout_seconds, lost) as watchdog:
        yield watchdog.report
