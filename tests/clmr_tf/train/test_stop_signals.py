"""Signals with a handler that was not installed by Python, as in a C program that embeds Python."""

import signal
import subprocess
import sys

# `abs` is a harmless handler. Reloading `_signal` makes Python find it as an embedded Python would at its start.
C_HANDLER = """
import ctypes, signal, sys
from clmr_tf.console import (run_command)
from clmr_tf.train.loop import (deferred_signals)

libc = ctypes.CDLL(None)
libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p

def install_from_c():
    for number in (signal.SIGTERM, signal.SIGINT):
        libc.signal(number, ctypes.cast(libc.abs, ctypes.c_void_p))
    del sys.modules["_signal"]
    import _signal
    assert _signal.getsignal(signal.SIGTERM) is None and _signal.getsignal(signal.SIGINT) is None
"""
SIGNALS = """
def command(arguments):
    print("ran", flush=True)

install_from_c()
assert run_command(command, []) == 0
assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
install_from_c()
with deferred_signals() as noted:
    signal.raise_signal(signal.SIGTERM)
    print("noted" if noted == [signal.SIGTERM] else noted, flush=True)
assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
install_from_c()
with deferred_signals():
    signal.raise_signal(signal.SIGTERM)
    print("once", flush=True)
    # A second signal has its default action and ends the process.
    signal.raise_signal(signal.SIGTERM)
    print("still there", flush=True)
"""


def test_foreign_signal_handlers_are_supported():
    done = subprocess.run([sys.executable, "-c", C_HANDLER + SIGNALS], capture_output=True, text=True, check=False)
    assert done.stdout == "ran\nnoted\nonce\n", done.stderr
    assert done.returncode == -signal.SIGTERM
