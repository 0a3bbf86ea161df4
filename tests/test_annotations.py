"""What is called, or asked for an attribute, is not annotated as `object`, of which neither can be said."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [path for folder in ("clmr_tf", "pipelines", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py")]


def misused(tree: ast.AST) -> list[str]:
    """Parameters of the type `object` that are called or have attributes, unless `isinstance` says more of them."""
    found = []
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        every = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
        objects = {one.arg for one in every if isinstance(one.annotation, ast.Name) and one.annotation.id == "object"}
        narrowed = {
            ast.unparse(node.args[0])
            for node in ast.walk(function)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"
        }
        for node in ast.walk(function):
            used = node.func if isinstance(node, ast.Call) else node.value if isinstance(node, ast.Attribute) else None
            if isinstance(used, ast.Name) and used.id in objects - narrowed:
                found.append(f"{function.name}: {used.id}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_object_is_called(path):
    assert misused(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_what_is_looked_for_is_found():
    source = (
        "def f(a: object, b: object, c: object, d: int):\n    a(1)\n    b.c\n    isinstance(c, str) and c.d\n    d.e"
    )
    assert misused(ast.parse(source)) == ["f: a", "f: b"]
