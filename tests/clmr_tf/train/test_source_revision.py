"""Which revision a run is said to be of: that of this project's own repository, never that of one around it."""

import subprocess
from pathlib import Path

import pytest

from clmr_tf.train.run_folder import git_revision

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
    # Also where the folder for temporary files is inside of a repository.
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "none"))


def test_a_checkout_has_a_revision_and_says_when_files_differ(tmp_path):
    tree = write_tree(tmp_path / "checkout")
    revision = commit(tree, ".")
    assert len(revision) == 12 and git_revision(tree) == revision
    (tree / PACKAGE[0]).write_text("changed = True")
    assert git_revision(tree) == f"{revision}-changed"


@pytest.mark.parametrize("is_tracked", [False, True])
def test_the_repository_around_an_installed_package_is_not_ours(tmp_path, is_tracked):
    # A user's own project with a virtual environment in it, under version control or not.
    project = tmp_path / "thesis"
    site_packages = write_tree(project / ".venv" / "lib" / "python3.11" / "site-packages", setup=None)
    (project / "thesis.tex").write_text("")
    commit(project, "." if is_tracked else "thesis.tex")
    assert git_revision(site_packages) is None
    # Nor where a setup.py lies beside it.
    (site_packages / "setup.py").write_text('setup(name="clmr_tf")')
    assert git_revision(site_packages) is None


def test_a_package_that_the_repository_does_not_track_is_not_of_it(tmp_path):
    tree = write_tree(tmp_path / "project")
    commit(tree, "setup.py")
    assert git_revision(tree) is None


def test_the_repository_of_another_project_is_not_ours(tmp_path):
    # With the package put into it by hand.
    tree = write_tree(tmp_path / "project", setup='setup(name="thesis")')
    commit(tree, ".")
    assert git_revision(tree) is None


def test_outside_of_every_repository_there_is_none(tmp_path):
    assert git_revision(write_tree(tmp_path / "unpacked")) is None
    assert git_revision(tmp_path / "nowhere") is None


def test_a_hook_of_another_repository_changes_nothing(tmp_path, monkeypatch):
    tree, other = write_tree(tmp_path / "checkout"), tmp_path / "other"
    revision = commit(tree, ".")
    other.mkdir()
    (other / "file").write_text("")
    assert commit(other, ".") != revision
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert git_revision(tree) == revision
