"""The start of XLA without its notices."""

import os
import sys

import tensorflow as tf


def start_xla_quietly() -> None:
    """Compiles something small while standard error leads nowhere.

    When it compiles for the first time in a process, XLA writes four lines of no consequence to standard error past
    every setting of TensorFlow's log level. Commands call this before they show anything of their own.
    """
    sys.stderr.flush()
    standard_error, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        tf.function(lambda: tf.zeros([]) + 1, jit_compile=True)()
    finally:
        os.dup2(standard_error, 2)
        os.close(standard_error)
        os.close(nowhere)
