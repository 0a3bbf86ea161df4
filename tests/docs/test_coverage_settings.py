"""Every module that `make coverage` names in pyproject.toml exists; a renamed one would not be measured any more."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_pattern_names_a_module():
    report = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["coverage"]["report"]
    assert report["fail_under"] >= 95
    assert [pattern for pattern in report["include"] if not list(ROOT.glob(pattern))] == []
