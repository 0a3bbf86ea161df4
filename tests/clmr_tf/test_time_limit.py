"""A time limit that holds where Python does not come to run."""

import subprocess
import sys
import time

from clmr_tf.train.distribution import time_limit

# PyDLL does not let go of the interpreter while it is in native code, as TensorFlow does not while it connects.
PROGRAM = """
import ctypes
from clmr_tf.train.distribution import (time_limit)
with time_limit(0.5, "It's $late; `go`."):
    print("in", flush=True)
    ctypes.PyDLL(None).sleep(60)
"""


def test_native_code_that_keeps_the_interpreter_is_ended_with_one_sentence():
    began = time.monotonic()
    finished = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=50, check=False)
    assert (finished.stdout, finished.stderr) == ("in\n", "error: It's $late; `go`.\n")
    assert finished.returncode == 1
    assert time.monotonic() - began < 30


def test_what_is_done_in_time_is_left_alone(capfd):
    with time_limit(0.2, "Too late."):
        pass
    time.sleep(0.4)
    assert capfd.readouterr().err == ""
