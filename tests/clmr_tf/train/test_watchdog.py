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

# Reports keep the process alive, and afterwards nothing is watched any more.
watch(15, lambda: None)
time.sleep(1.5)
try:
    watch(0, lambda: sys.exit(7))
except SystemExit as stopped:
    print("exit", stopped.code, flush=True)
# A deadlock, which an exception in another thread would not end.
lock = threading.Lock()
lock.acquire()
watch(3, lock.acquire)
"""


def test_only_a_process_without_reports_is_ended_with_the_error():
    start = time.monotonic()
    ended = subprocess.run(
        [*STRICT_PYTHON, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert (ended.returncode, ended.stderr) == (1, "error: No news.\n")
    assert ended.stdout == "reported\nreported\nexit 7\nreported\n"
    assert time.monotonic() - start >= 15 * 0.1 + 1.5 + 3 * 0.1 + 1.0
