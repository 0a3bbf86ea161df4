"""The recorded git revision is that of this project's repository, never that of an enclosing one."""

import shutil
import subprocess
from pathlib import Path

import pytest

from clmr_tf.train.run_folder import git_revision

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")

PACKAGE = ("clmr_tf/__init__.py", "clmr_tf/train/run_folder.py")


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=tester", "-c", "user.email=tester@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def write_tree(folder: Path, setup: str | None = 'setup(name="clmr_tf")') -> Path:
    for name in PACKAGE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    if setup is not None:
        (folder / "setup.py").write_text(setup)
    return folder


def commit(folder: Path, *names: str) -> str:
    git(folder, "init", "-q")
    git(folder, "add", "-f", *names)
    git(folder, "commit", "-q", "-m", "All of it")
    return git(folder, "rev-parse", "HEAD")[:12]


@pytest.fixture(autouse=True)
def ignores_the_repository_around(monkeypatch, tmp_path):
    # The folder for temporary files may itself be inside a repository.
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "none"))


def test_checkout_has_a_revision_marked_if_files_changed(tmp_path):
    tree = write_tree(tmp_path / "checkout")
    revision = commit(tree, ".")
    assert len(revision) == 12 and git_revision(tree) == revision
    (tree / PACKAGE[0]).write_text("changed = True")
    assert git_revision(tree) == f"{revision}-changed"


@pytest.mark.parametrize("is_tracked", [False, True])
def test_repository_around_an_installed_package_is_ignored(tmp_path, is_tracked):
    # A user's own project with a virtual environment in it, under version control or not.
    project = tmp_path / "thesis"
    site_packages = write_tree(project / ".venv" / "lib" / "python3.11" / "site-packages", setup=None)
    (project / "thesis.tex").write_text("")
    commit(project, "." if is_tracked else "thesis.tex")
    assert git_revision(site_packages) is None
    # The same with a setup.py next to it.
    (site_packages / "setup.py").write_text('setup(name="clmr_tf")')
    assert git_revision(site_packages) is None


def test_untracked_package_has_no_revision(tmp_path):
    tree = write_tree(tmp_path / "project")
    commit(tree, "setup.py")
    assert git_revision(tree) is None


def test_repository_of_another_project_is_ignored(tmp_path):
    # The package was copied into it.
    tree = write_tree(tmp_path / "project", setup='setup(name="thesis")')
    commit(tree, ".")
    assert git_revision(tree) is None


def test_no_revision_outside_a_repository(tmp_path):
    assert git_revision(write_tree(tmp_path / "unpacked")) is None
    assert git_revision(tmp_path / "nowhere") is None


def test_git_environment_variables_are_ignored(tmp_path, monkeypatch):
    tree, other = write_tree(tmp_path / "checkout"), tmp_path / "other"
    revision = commit(tree, ".")
    other.mkdir()
    (other / "file").write_text("")
    assert commit(other, ".") != revision
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert git_revision(tree) == revision
