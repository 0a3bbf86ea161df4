"""Work that cannot be interrupted, with somebody at hand who can be."""

import threading
from collections.abc import Callable
from typing import TypeVar

_SECONDS_BETWEEN_REPORTS = 0.5

Result = TypeVar("Result")


def attended(work: Callable[[], Result], progressed: Callable[[], None]) -> Result:
    """Does something in another thread, and calls `progressed` now and then until it is done.

    What `progressed` raises, such as after a signal, is raised here at once; the work is left behind then, and ends
    with the process at the latest.

    Args:
        work: Needs no TensorFlow graph or strategy of this thread.
        progressed: Called in this thread, where signals arrive.

    Returns:
        What `work` returns; what it raises is raised.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - it is raised again where somebody waits for it
            errors.append(error)

    # Not from a pool, whose threads a process waits for when it ends.
    thread = threading.Thread(target=run, name="attended work", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_SECONDS_BETWEEN_REPORTS)
        progressed()
    if errors:
        raise errors[0]
    return results[0]
