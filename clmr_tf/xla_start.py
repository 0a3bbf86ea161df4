"""The start of XLA without its notices."""

import tensorflow as tf

from clmr_tf.native_output import native_errors_held_back


def start_xla_quietly() -> None:
    """Compiles something small while standard error is held back.

    When it compiles for the first time in a process, XLA writes four lines of no consequence to standard error past
    every setting of TensorFlow's log level. Commands call this before they show anything of their own.
    """
    with native_errors_held_back():
        tf.function(lambda: tf.zeros([]) + 1, jit_compile=True)()
