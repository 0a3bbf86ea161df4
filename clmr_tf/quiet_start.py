"""Starts TensorFlow without its start-up messages."""

import contextlib
import functools
import importlib.abc
import importlib.machinery
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from types import ModuleType


@contextlib.contextmanager
def native_errors_held_back() -> Iterator[None]:
    """Keeps what is written to standard error meanwhile from the user, unless an error ends the block.

    All threads of the process are affected, so it is for what is short and done before anything else is.
    """
    sys.stderr.flush()
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            written.seek(0)
            while block := written.read(1 << 16):
                os.write(standard_error, block)
            raise
        finally:
            sys.stderr.flush()
            os.dup2(standard_error, 2)
            os.close(standard_error)


def hold_back_tensorflow_start() -> None:
    """Makes the first import of TensorFlow in this process a quiet one.

    Before its log level counts, TensorFlow 2.21 writes to standard error whether it found CUDA, on which a user could
    not act (`clmr_tf.hardware` says what is). Commands call this before they import anything.
    """
    if "tensorflow" not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Finds TensorFlow, with a loader that holds back its messages."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "tensorflow":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_quietly(module: ModuleType) -> None:
                with native_errors_held_back():
                    load(module)

            spec.loader.exec_module = load_quietly
        return spec


@functools.cache
def start_xla_quietly() -> None:
    """Compiles something small while standard error is held back.

    When it compiles for the first time in a process, XLA writes four lines of no consequence to standard error past
    every setting of TensorFlow's log level. Commands call this before they show anything of their own.
    """
    import tensorflow as tf

    with native_errors_held_back():
        tf.function(lambda: tf.zeros([]) + 1, jit_compile=True)()
