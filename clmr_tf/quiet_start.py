"""Starts TensorFlow and Keras quickly and without their start-up messages."""

import contextlib
import functools
import importlib.abc
import importlib.machinery
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
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


_WRAPPED = ("matplotlib", "sklearn")
"""What Keras takes along where it is installed, for its image galleries and its estimators: 1.5 of 4 s of a start."""


def start_libraries_plainly() -> None:
    """Lets the first imports in this process of Keras and of TensorFlow go on in another way.

    That of Keras as if Matplotlib and scikit-learn were not installed. That of TensorFlow without what it writes to
    standard error before its log level counts: 2.21 says there whether it found CUDA, which is nothing that a user
    could act on (`clmr_tf.hardware` has what is).

    Commands call this before they import anything; their own imports are not affected. Not for a library: who uses
    Keras' wrappers beside it would miss them.
    """
    for name, around in (("keras", _without_wrapped), ("tensorflow", native_errors_held_back)):
        is_prepared = any(isinstance(finder, _Finder) and finder.name == name for finder in sys.meta_path)
        if name not in sys.modules and not is_prepared:
            sys.meta_path.insert(0, _Finder(name, around))


@contextlib.contextmanager
def _without_wrapped() -> Iterator[None]:
    absent = [name for name in _WRAPPED if name not in sys.modules]
    # Python's own sign for what must not be found.
    sys.modules.update(dict.fromkeys(absent))
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


Around = Callable[[], contextlib.AbstractContextManager[None]]


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module, whose code then runs inside of a context manager."""

    def __init__(self, name: str, around: Around) -> None:
        self.name = name
        self._around = around

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._around)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, around: Around) -> None:
        self._loader = loader
        self._around = around

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        try:
            with self._around():
                self._loader.exec_module(module)
        finally:
            # What reads a package's files asks its loader for them.
            module.__spec__.loader = module.__loader__ = self._loader


@functools.cache
def start_xla_quietly() -> None:
    """Compiles something small while standard error is held back.

    When it compiles for the first time in a process, XLA writes four lines of no consequence to standard error past
    every setting of TensorFlow's log level. Commands call this before they show anything of their own.
    """
    import tensorflow as tf

    with native_errors_held_back():
        tf.function(lambda: tf.zeros([]) + 1, jit_compile=True)()
