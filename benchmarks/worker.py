"""Child processes that do what they are told and answer, one JSON object a line, so that they can take turns.

Only the standard library: the Python that runs a worker need not have anything of this project.
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
"""Something that a worker can do: takes keyword arguments, gives JSON data."""


class WorkerFailedError(RuntimeError):
    """A worker ended instead of answering; what it wrote to standard error says why."""


class Worker:
    """A child process, told what to do from here.

    Args:
        python: The interpreter that runs it.
        module: The program, which calls `serve`.
        arguments: Its command line.

    Raises:
        WorkerFailedError: If it does not come up.
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
        """What it said about itself when it was ready."""

    def tell(self, command: str, **arguments: object) -> dict[str, Any]:
        """Has a command done and returns the answer.

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
    """Says what this worker is and does what standard input says until that ends.

    Whatever else is written to standard output after `answers_apart` goes to standard error.
    """
    _answers.write(json.dumps(dict(about)) + "\n")
    for line in sys.stdin:
        name, arguments = json.loads(line)
        _answers.write(json.dumps(commands[name](**arguments)) + "\n")


def answers_apart() -> None:
    """Keeps standard output for the answers alone; to be called before a library can print there."""
    global _answers  # noqa: PLW0603 - standard output is one as well
    _answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)


_answers = sys.stdout


def seconds_of(run: Callable[[], Any], repetitions: int) -> list[float]:
    """Wall-clock seconds of each call."""
    seconds = []
    for _ in range(repetitions):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return seconds
