"""python -m docs.reference: writes the API reference, HTML pages made from the docstrings.

python -m docs.reference --out build/reference
"""

import argparse
import contextlib
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pdoc
import pdoc.render

PACKAGES = ("clmr_tf", "pipelines")
TEMPLATES = Path(__file__).parent / "reference_template"


def write_reference(folder: Path, *, with_source: bool = True) -> None:
    """Writes a page for each public module, and an index with a search.

    Args:
        folder: Created if it does not exist; the pages of an earlier call are replaced.
        with_source: Whether the pages show the source of each function, which takes most of the time.
    """
    pdoc.render.configure(docformat="google", template_directory=TEMPLATES, show_source=with_source)
    modules = [*PACKAGES, *(name for package in PACKAGES for name in hidden_modules(package))]
    with contextlib.ExitStack() as names:
        for public, module in _public_modules().items():
            names.enter_context(mock.patch.object(public, "__module__", module))
        pdoc.pdoc(*modules, output_directory=folder)


def hidden_modules(package: str) -> Iterator[str]:
    """The public modules that pdoc does not find because the `__all__` of their package does not list them."""
    module = importlib.import_module(package)
    names = getattr(module, "__all__", None)
    if names is None or not hasattr(module, "__path__"):
        return
    for child in pkgutil.iter_modules(module.__path__, f"{package}."):
        name = child.name.rpartition(".")[2]
        if not name.startswith("_"):
            if name not in names:
                yield child.name
            yield from hidden_modules(child.name)


def _public_modules() -> dict[type, str]:
    """The modules users know classes by; otherwise tf.Tensor would be tensorflow.python.framework.tensor.Tensor."""
    # Imported after clmr_tf, which hides TensorFlow's harmless start-up messages.
    import keras
    import tensorflow as tf

    return {
        tf.Tensor: "tf",
        tf.Variable: "tf",
        tf.distribute.Strategy: "tf.distribute",
        keras.Model: "keras",
        keras.layers.Layer: "keras.layers",
        keras.optimizers.Adam: "keras.optimizers",
        keras.optimizers.Optimizer: "keras.optimizers",
        keras.optimizers.schedules.LearningRateSchedule: "keras.optimizers.schedules",
    }


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m docs.reference", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/reference"), help="folder for the pages")
    write_reference(parser.parse_args().out)


if __name__ == "__main__":
    main()
