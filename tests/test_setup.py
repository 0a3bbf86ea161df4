"""What is installed is all there is: every module, table and recipe."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_file_of_the_packages_is_installed(tmp_path):
    # A build elsewhere, so that what an earlier one left behind is not taken for new.
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    built = subprocess.run(
        [*command, "build", "--build-base", str(tmp_path / "base"), "--build-lib", str(tmp_path / "lib")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    folders = ("clmr_tf", "pipelines", "recipes")
    there = {
        path.relative_to(ROOT)
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and ".gitignore" not in path.name
    }
    installed = {path.relative_to(tmp_path / "lib") for path in (tmp_path / "lib").rglob("*") if path.is_file()}
    assert there - installed == set()
