"""`python -m tests.tiny_command clmr_tf.train ...` runs a command with the small network."""

import runpy
import sys

import pytest

from tests.tiny_network import use_tiny_network

if __name__ == "__main__":
    use_tiny_network(pytest.MonkeyPatch())
    module = sys.argv.pop(1)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
