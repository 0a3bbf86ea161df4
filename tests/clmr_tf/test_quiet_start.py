"""Commands hide TensorFlow's start-up messages unless it fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

NOISY = """
import os
os.write(2, b"I0000 cudart_stub.cc: Could not find cuda drivers on your machine\\n")
{then}
"""


@pytest.mark.parametrize("then", ["version = 7", "raise ImportError('libcudart is broken')"])
def test_import_messages_are_shown_only_if_the_import_fails(tmp_path, then):
    """The stand-in writes to the file descriptor of standard error, as TensorFlow 2.21 does from C++."""
    (tmp_path / "tensorflow.py").write_text(NOISY.format(then=then))
    code = """
import os, sys
from clmr_tf.console import run_command

def command(_arguments):
    import tensorflow
    os.write(2, b"afterwards\\n")
    print(tensorflow.version)

sys.exit(run_command(command, []))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    if "raise" in then:
        assert ended.returncode == 1 and ended.stdout == ""
        first, second = ended.stderr.splitlines()
        assert "Could not find cuda drivers" in first and "libcudart is broken" in second
    else:
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "7\n", "afterwards\n")


def test_command_starts_tensorflow_and_xla_quietly():
    code = """
import sys
from clmr_tf.console import run_command

def command(_arguments):
    from clmr_tf.quiet_start import start_xla_quietly
    start_xla_quietly()
    import tensorflow as tf
    print(float(tf.function(lambda: tf.ones([]) + 1, jit_compile=True)()))

sys.exit(run_command(command, []))
"""
    # tests/conftest.py sets this variable.
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "2.0\n", "")
