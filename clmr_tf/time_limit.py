"""A time limit for native code that keeps the interpreter to itself, where no thread of Python comes to run."""

import contextlib
import faulthandler
import subprocess
from collections.abc import Iterator

# Says its argument once anything but the end is read.
_SPEAKER = ["sh", "-c", 'IFS= read -r _ && echo "$0" >&2']


@contextlib.contextmanager
def time_limit(seconds: float, message: str) -> Iterator[None]:
    """Ends the process, with exit code 1, if what is done within takes longer.

    Args:
        seconds: How long it may take, above 0.
        message: The last words; one sentence for standard error.
    """
    # The timer of faulthandler is the only one of Python that is native itself. What it has to say is a traceback,
    # whose first line makes the other process say what we have to.
    with subprocess.Popen([*_SPEAKER, f"error: {message}"], stdin=subprocess.PIPE) as speaker:
        faulthandler.dump_traceback_later(seconds, exit=True, file=speaker.stdin)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
