"""Every module named in pyproject.toml for `make coverage` exists; a renamed one would no longer be measured."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_coverage_pattern_matches_a_module():
    report = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["coverage"]["report"]
    assert report["fail_under"] >= 95
    assert [pattern for pattern in report["include"] if not list(ROOT.glob(pattern))] == []
