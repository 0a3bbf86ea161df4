"""Signals with a handler that was not installed by Python, as in a C program that embeds Python."""

import signal
import subprocess
import sys

import pytest

# `abs` is a harmless handler. Reloading `_signal` makes Python find it as an embedded Python would at its start.
C_HANDLER = """
import ctypes, signal, sys
from clmr_tf.console import (run_command)
from clmr_tf.train.loop import (deferred_signals)

libc = ctypes.CDLL(None)
libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
for number in (signal.SIGTERM, signal.SIGINT):
    libc.signal(number, ctypes.cast(libc.abs, ctypes.c_void_p))
del sys.modules["_signal"]
import _signal
assert signal.getsignal(signal.SIGTERM) is None and signal.getsignal(signal.SIGINT) is None
"""
COMMAND = """
def command(arguments):
    print("ran", flush=True)

assert run_command(command, []) == 0
"""
NOTED = """
with deferred_signals() as noted:
    signal.raise_signal(signal.SIGTERM)
    print("ran" if noted == [signal.SIGTERM] else noted, flush=True)
"""
TWICE = """
with deferred_signals() as noted:
    signal.raise_signal(signal.SIGTERM)
    print("ran", flush=True)
    signal.raise_signal(signal.SIGTERM)
    print("still there", flush=True)
"""


@pytest.mark.parametrize(
    ("code", "expected"), [(COMMAND, 0), (NOTED, 0), (TWICE, -signal.SIGTERM)], ids=["command", "noted", "twice"]
)
def test_foreign_signal_handlers_are_supported(code, expected):
    # Afterwards SIGTERM has its default action again and ends the process.
    script = C_HANDLER + code + "signal.raise_signal(signal.SIGTERM)\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "ran\n", done.stderr
    assert done.returncode == (expected or -signal.SIGTERM)
