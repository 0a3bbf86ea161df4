"""Runs pipelines.folder and sends a signal just before its n-th access to a file of the corpus.

    python -m tests.pipelines.killed_command SIGNAL N LOG FOLDER --out CORPUS ...

SIGKILL hits the process alone, anything else its whole group, as the keys of a terminal do. Every
access is noted in LOG, which has one line less than N where the process was killed.
"""

import os
import re
import signal
import sys
from pathlib import Path

from clmr_tf.console import run_command
from pipelines.folder import main

EVENTS = {"open", "os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir", "os.scandir", "shutil.rmtree"}


def signal_before_access(sent: signal.Signals, number: int, log: Path, corpus: str) -> None:
    num_seen = 0
    log_file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def on_event(event: str, arguments: tuple) -> None:
        nonlocal num_seen
        if event not in EVENTS or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.fsdecode(arguments[0])
        if path.startswith(corpus):
            num_seen += 1
            if num_seen == number:
                send = os.kill if sent == signal.SIGKILL else os.killpg
                send(os.getpid(), sent)
            name = re.sub(r"\.[0-9a-f]{8}$", ".draft", path.removeprefix(corpus))
            os.write(log_file, f"{event} {name}\n".encode())

    sys.addaudithook(on_event)


if __name__ == "__main__":
    name, number, log = sys.argv[1:4]
    signal_before_access(signal.Signals[name], int(number), Path(log), sys.argv[sys.argv.index("--out") + 1])
    sys.exit(run_command(main, sys.argv[4:]))
