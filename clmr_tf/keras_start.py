"""The start of Keras without the libraries that it only wraps."""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_WRAPPED = ("matplotlib", "sklearn")
"""What Keras takes along where it is installed, for its image galleries and its estimators: 1.5 of 4 s of a start."""


def start_keras_alone() -> None:
    """Lets the first import of Keras in this process go on as if Matplotlib and scikit-learn were not installed.

    Commands call this before they import anything; their own imports of both are not affected. Not for a library: who
    uses Keras' wrappers beside it would miss them.
    """
    if "keras" not in sys.modules and not any(isinstance(finder, _FinderOfKeras) for finder in sys.meta_path):
        sys.meta_path.insert(0, _FinderOfKeras())


class _FinderOfKeras(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "keras":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _LoaderOfKeras(spec.loader)
        return spec


class _LoaderOfKeras(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        absent = [name for name in _WRAPPED if name not in sys.modules]
        # Python's own sign for what must not be found.
        sys.modules.update(dict.fromkeys(absent))
        try:
            self._loader.exec_module(module)
        finally:
            for name in absent:
                del sys.modules[name]
            # What reads a package's files asks its loader for them.
            module.__spec__.loader = module.__loader__ = self._loader
