"""Runs pipelines.folder and kills the process just before its n-th access to a file of the corpus.

    python -m tests.pipelines.killed_command N LOG FOLDER --out CORPUS ...

Every access is noted in LOG, which has one line less than N where the process was killed.
"""

import os
import signal
import sys
from pathlib import Path

from pipelines.folder import main

EVENTS = {"open", "os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir", "os.scandir", "shutil.rmtree"}


def kill_before_access(number: int, log: Path, corpus: str) -> None:
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
                os.kill(os.getpid(), signal.SIGKILL)
            os.write(log_file, f"{event} {path.removeprefix(corpus)}\n".encode())

    sys.addaudithook(on_event)


if __name__ == "__main__":
    kill_before_access(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[sys.argv.index("--out") + 1])
    main(sys.argv[3:])
