"""python -m docs.reference: writes the API reference, HTML pages made from the docstrings.

python -m docs.reference --out build/reference
"""

import argparse
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pdoc
import pdoc.render

PACKAGES = ("clmr_tf", "pipelines")


def public_modules(name: str) -> Iterator[str]:
    """What to hand to pdoc for a package: it finds modules by itself, except those of a package with an `__all__`."""
    yield name
    module = importlib.import_module(name)
    if hasattr(module, "__all__"):
        for child in pkgutil.iter_modules(getattr(module, "__path__", [])):
            if not child.name.startswith("_"):
                yield from public_modules(f"{name}.{child.name}")


def write_reference(folder: Path) -> None:
    """Writes a page per public module, and an index with a search.

    Args:
        folder: Made if it is not there; pages of an earlier call are replaced.
    """
    pdoc.render.configure(docformat="google", footer_text="clmr_tf", search=True, show_source=True)
    pdoc.pdoc(*(name for package in PACKAGES for name in public_modules(package)), output_directory=folder)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m docs.reference", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/reference"), help="folder for the pages")
    write_reference(parser.parse_args().out)


if __name__ == "__main__":
    main()
