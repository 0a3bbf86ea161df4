"""The API reference: every public module has a page, and docstrings match their functions."""

import ast
import itertools
from pathlib import Path

import docstring_parser
import pytest

from docs.reference import PACKAGES, write_reference

ROOT = Path(__file__).parents[2]
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, str]:
    """Writes the reference without sources and returns every page by the name of its module."""
    folder = tmp_path_factory.mktemp("reference")
    write_reference(folder, with_source=False)
    pages = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.html")}
    return {name.replace("/", "."): path.read_text(encoding="utf-8") for name, path in pages.items()}


@pytest.mark.soak
def test_pages_are_those_of_the_public_modules(pages):
    modules = [path.relative_to(ROOT).with_suffix("").parts for path in FILES]
    names = {".".join(part for part in parts if part != "__init__") for parts in modules}
    assert pages.keys() - {"index"} == {name for name in names if "._" not in name}


@pytest.mark.soak
def test_package_pages_describe_the_public_names(pages):
    for name in ("SampleCNN", "nt_xent", "load_encoder"):
        assert f'<section id="{name}">' in pages["clmr_tf"]
    assert '<section id="pitch_shift">' in pages["clmr_tf.augment"]


@pytest.mark.soak
def test_docstring_sections_and_types_are_rendered(pages):
    for name, page in pages.items():
        # These remain if a section is indented wrongly.
        assert not [word for word in ("Args:", "<p>Returns:", "<p>Raises:") if word in page], name
        assert "framework.tensor" not in page, name


def described_arguments(node: ast.AST) -> set[str]:
    described = docstring_parser.parse(ast.get_docstring(node) or "", docstring_parser.DocstringStyle.GOOGLE)
    names = [one.arg_name for one in described.params if one.args[0] == "param"]
    return set(itertools.chain.from_iterable(name.replace("*", "").split(", ") for name in names))


def arguments_of(function: ast.FunctionDef) -> set[str]:
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return {one.arg for one in every if one}


def test_arguments_described_in_docstrings_exist():
    wrong = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                arguments = arguments_of(node)
            elif isinstance(node, ast.ClassDef):
                constructors = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
                fields = {one.target.id for one in node.body if isinstance(one, ast.AnnAssign)}
                arguments = fields.union(*map(arguments_of, constructors))
            else:
                continue
            wrong += [f"{path}: {node.name}: {name}" for name in described_arguments(node) - arguments]
    assert not wrong, wrong
