"""Hides the start-up messages of TensorFlow, which no setting turns off.

TF_CPP_MIN_LOG_LEVEL does not apply to the lines on CUDA that TensorFlow 2.21 writes while it is imported, nor to those
on XLA that 2.17 writes when it first compiles (tensorflow/tensorflow#100442). Native code writes both directly to file
descriptor 2, so it is redirected at these two points.
"""

import contextlib
import functools
import importlib.machinery
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from types import ModuleType


@contextlib.contextmanager
def hidden_standard_error() -> Iterator[None]:
    """Hides what all threads of the process write to standard error; shows it if the block raises."""
    sys.stderr.flush()
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            hidden.seek(0)
            os.write(standard_error, hidden.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(standard_error, 2)
            os.close(standard_error)


class _TensorFlowFinder(importlib.machinery.PathFinder):
    """Finds TensorFlow, with a loader that hides its messages."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "tensorflow":
            return None
        spec = super().find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = hidden_standard_error()(spec.loader.exec_module)
        return spec


def hide_tensorflow_start() -> None:
    """Makes the first import of TensorFlow quiet, wherever it happens.

    This is an import hook, because commands import TensorFlow in many places, and only when they need it, since the
    import takes seconds.
    """
    if _TensorFlowFinder not in sys.meta_path:
        sys.meta_path.insert(0, _TensorFlowFinder)


@functools.cache
def start_xla_quietly() -> None:
    """Compiles a small function with hidden messages; for commands that compile, before they print anything."""
    import tensorflow as tf

    with hidden_standard_error():
        tf.function(lambda: tf.zeros([]) + 1, jit_compile=True)()
