"""The watchdog ends a process that hangs, with an error message."""

import subprocess
import time

from tests.clmr_tf.train.training_runs import PATIENCE_SECONDS, ROOT
from tests.strict_python import STRICT_PYTHON

PROGRAM = """
import sys, threading, time
from clmr_tf.quiet_start import (hide_tensorflow_start)
hide_tensorflow_start()
from clmr_tf.train.distribution import (Watchdog)

def watch(num_reports, then):
    with Watchdog(1.0, "No news.") as watchdog:
        for _ in range(num_reports):
            time.sleep(0.1)
            watchdog.report()
        print("reported", flush=True)
        then()

{calls}
"""


def run(calls: str) -> subprocess.CompletedProcess:
    arguments = [*STRICT_PYTHON, "-c", PROGRAM.format(calls=calls)]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)


def test_process_without_reports_ends_with_the_error():
    start = time.monotonic()
    # A deadlock, which an exception in another thread would not end.
    ended = run("lock = threading.Lock(); lock.acquire(); watch(3, lock.acquire)")
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "reported\n", "error: No news.\n")
    assert time.monotonic() - start >= 1.0 + 0.1 * 3


def test_reports_keep_the_process_alive_exit_disarms_and_exceptions_propagate():
    ended = run("watch(15, lambda: None); time.sleep(1.5); watch(0, lambda: sys.exit(7))")
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "reported\nreported\n", "")
