"""Worker processes that take turns: each reads commands and writes answers, one JSON object per line.

Uses only the standard library, because the Python that runs a worker need not have this project's packages.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

Command = Callable[..., dict[str, Any]]
"""A function of a worker that takes keyword arguments and returns JSON data."""


class WorkerFailedError(RuntimeError):
    """Raised if a worker ends without an answer; its standard error has the reason."""


class Worker:
    """A worker process and the connection to it.

    Args:
        python: The Python interpreter.
        module: The module to run, which calls `serve`.
        arguments: The module's command line.

    Raises:
        WorkerFailedError: If the worker does not start.
    """

    def __init__(self, python: Path | str, module: str, arguments: Sequence[object] = ()) -> None:
        self._name = module
        command = [str(python), "-m", module, *map(str, arguments)]
        try:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
        except OSError as error:
            raise WorkerFailedError(f"{python} cannot be started: {error.strerror}") from error
        try:
            self.about = self._answer()
        except WorkerFailedError:
            self.close()
            raise
        """What the worker reported about itself at its start."""

    def request(self, command: str, **arguments: object) -> dict[str, Any]:
        """Sends a command and returns the answer.

        Raises:
            WorkerFailedError: If the worker ends before it answers.
        """
        self._process.stdin.write(json.dumps([command, arguments]) + "\n")
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise WorkerFailedError(f"{self._name} ended with exit code {self._process.wait()}; see above")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve(commands: Mapping[str, Command], about: Mapping[str, Any]) -> None:
    """Reports what this worker is, and answers commands until standard input ends.

    After `reserve_standard_output`, anything else written to standard output goes to standard error.
    """
    _answers.write(json.dumps(dict(about)) + "\n")
    for line in sys.stdin:
        name, arguments = json.loads(line)
        _answers.write(json.dumps(commands[name](**arguments)) + "\n")


def reserve_standard_output() -> None:
    """Reserves standard output for answers; call it before a library can print there."""
    global _answers  # noqa: PLW0603 - there is only one standard output
    _answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)


_answers = sys.stdout


def seconds_of(run: Callable[[], Any], repetitions: int) -> list[float]:
    """Returns the wall-clock seconds of each call."""
    seconds = []
    for _ in range(repetitions):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return seconds
