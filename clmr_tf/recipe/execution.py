"""Running a chain: each command in a process of its own, unless it is done already."""

import signal
import subprocess
import sys

from clmr_tf.console import notes
from clmr_tf.errors import ClmrError
from clmr_tf.loop.stop_signals import noted_signals
from clmr_tf.recipe.chain import Chain, Command

_SECONDS_BETWEEN_LOOKS = 0.2


class CommandFailedError(ClmrError):
    """A command of a recipe has ended with an error, which it has said itself; its exit code goes on."""

    def __init__(self, command: Command, exit_code: int) -> None:
        super().__init__(
            f"`python -m {command.module}` has ended with exit code {exit_code}; what is done stays done, and the "
            "same recipe again goes on from there."
        )
        # Of a process that a signal has killed: as a shell says it.
        self.exit_code = exit_code if exit_code > 0 else 128 - exit_code


def run_chain(chain: Chain) -> None:
    """Trains, exports and probes; what is done is not done again.

    Raises:
        CommandFailedError: If a command fails or is stopped.
    """
    for place, command in enumerate(chain.commands()):
        if chain.is_done(place):
            notes.print(f"Done already: {command.line}", markup=False)
        else:
            _run(command)


def _run(command: Command) -> None:
    notes.print(f"$ {command.line}", markup=False)
    line = [sys.executable, "-m", command.module, *command.arguments]
    # What it prints is on the way to the result, which alone goes to standard output.
    with noted_signals() as noted, subprocess.Popen(line, stdout=sys.stderr) as process:
        is_told = False
        try:
            while process.poll() is None:
                # A terminal sends Ctrl-C to both; SIGTERM comes to this process alone.
                if signal.SIGTERM in noted and not is_told:
                    process.terminate()
                    is_told = True
                try:
                    process.wait(_SECONDS_BETWEEN_LOOKS)
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:
            # A second signal: it shall end now, and no process shall stay behind.
            process.terminate()
            raise
    # One that ended well although it was told to stop is the last one all the same.
    exit_code = process.returncode or (128 + noted[0] if noted else 0)
    if exit_code:
        raise CommandFailedError(command, exit_code)
