"""The watchdog ends a process that hangs, with an error message."""

import subprocess
import time

import pytest

from tests.clmr_tf.train.training_runs import PATIENCE_SECONDS, ROOT
from tests.strict_python import STRICT_PYTHON

PROGRAM = """
import sys, time
from clmr_tf.quiet_start import (hide_tensorflow_start)
hide_tensorflow_start()
from clmr_tf.train.distribution import (Watchdog)
with Watchdog(1.5, "No news.") as watchdog:
    for _ in range(int(sys.argv[1])):
        time.sleep(0.1)
        watchdog.report()
    print("reported", flush=True)
    {then}
print("done")
"""


def run(then: str, num_reports: int) -> subprocess.CompletedProcess:
    arguments = [*STRICT_PYTHON, "-c", PROGRAM.format(then=then), str(num_reports)]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)


@pytest.mark.parametrize("num_reports", [0, 3])
def test_process_without_reports_ends_with_the_error(num_reports):
    start = time.monotonic()
    # A deadlock, which an exception in another thread would not end.
    ended = run("import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()", num_reports)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "reported\n", "error: No news.\n")
    assert time.monotonic() - start >= 1.5 + 0.1 * num_reports


def test_reports_keep_the_process_alive_and_exit_disarms_the_watchdog():
    ended = run("pass", 20)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "reported\ndone\n", "")


def test_exception_inside_propagates():
    ended = run("raise SystemExit(7)", 0)
    assert (ended.returncode, ended.stderr) == (7, "")
