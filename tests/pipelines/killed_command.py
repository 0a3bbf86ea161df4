"""Runs a command again and again, each time killed before its next access to a file of the corpus.

    python -m tests.pipelines.killed_command prepare MUSIC WORK
    python -m tests.pipelines.killed_command merge CORPUS WORK

"prepare" prepares the folder MUSIC; "merge" runs pipelines.merge on copies of CORPUS. Forks, so that this costs one
start of Python. The n-th process is killed by SIGKILL just before its n-th access and leaves WORK/n; the last one
finishes, and its accesses are printed, a line each.
"""

import os
import re
import shutil
import signal
import sys
from pathlib import Path

from pipelines import merge
from pipelines.folder import PrepareSettings, prepare_corpus
from pipelines.preparation import prepare
from tests.pipelines.conftest import run_in_this_process

EVENTS = {"open", "os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir", "os.scandir", "shutil.rmtree"}
SETTINGS = PrepareSettings(min_num_samples=22050, num_workers=1)


def kill_before_access(number: int, log: Path, corpus: str) -> None:
    num_seen = 0
    log_file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def on_event(event: str, arguments: tuple) -> None:
        nonlocal num_seen
        if event not in EVENTS or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.fsdecode(arguments[0])
        if path.startswith(corpus + "/") or path == corpus:
            num_seen += 1
            if num_seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            name = re.sub(r"\.[0-9a-f]{8}$", ".draft", path.removeprefix(corpus))
            os.write(log_file, f"{event} {name}\n".encode())

    sys.addaudithook(on_event)


def run(operation: str, source: Path, work: Path) -> None:
    prepare.run_in_workers = run_in_this_process

    def begin(corpus: Path) -> None:
        if operation == "merge":
            shutil.copytree(source, corpus)

    def finish(corpus: Path) -> None:
        if operation == "merge":
            merge.main([str(corpus)])
        else:
            prepare_corpus(source, corpus, SETTINGS)

    # Everything that is imported only when it is used.
    begin(work / "0")
    finish(work / "0")
    log, number, status = work / "log", 0, -1
    while status != 0:
        number += 1
        begin(work / str(number))
        process = os.fork()
        if process == 0:
            kill_before_access(number, log, str(work / str(number)))
            finish(work / str(number))
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if status not in (0, -signal.SIGKILL):
            sys.exit(f"The process {number} ended with {status}.")
    sys.stdout.write(log.read_text())


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
