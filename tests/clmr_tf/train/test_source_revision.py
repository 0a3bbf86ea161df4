"""The recorded git revision is that of this project's checkout, never that of an enclosing repository."""

import shutil
import subprocess
from pathlib import Path

import pytest

from clmr_tf.train.run_folder import git_revision

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=tester", "-c", "user.email=tester@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path) -> Path:
    package = tmp_path / "checkout" / ".venv" / "clmr_tf"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    folder = tmp_path / "checkout"
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "All of it")
    return folder


def test_checkout_has_a_revision_marked_if_files_changed(checkout):
    revision = git(checkout, "rev-parse", "HEAD")[:12]
    assert len(revision) == 12 and git_revision(checkout) == revision
    (checkout / ".venv" / "clmr_tf" / "__init__.py").write_text("changed = True")
    assert git_revision(checkout) == f"{revision}-changed"


def test_other_folders_have_none(checkout):
    assert git_revision(checkout / ".venv") is None
    assert git_revision(checkout / "nowhere") is None
