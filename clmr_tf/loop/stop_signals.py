"""Stopping a run by a signal, between two steps."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from clmr_tf.console import SignalHandler, restore_signal_handler
from clmr_tf.errors import ClmrError


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
