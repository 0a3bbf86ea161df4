"""Saving checkpoints to disks that are full, limited or read-only, and the order of syncs."""

import errno
import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest

from clmr_tf.errors import ClmrError
from clmr_tf.train.checkpoints import Checkpoints, restore_newest
from tests.clmr_tf.train.saved_variables import make_groups, names_in, save_steps, set_step, step_in
from tests.strict_python import STRICT_PYTHON

ROOT = Path(__file__).parents[3]

# Mounts a small tmpfs in a mount namespace that ends with the shell.
SCRIPT = 'mount -t tmpfs -o size=$1 tmpfs "$2" || exit 99; disk=$2; shift 2; "$@"'

FILL = """
import pathlib, sys
from clmr_tf.train.checkpoints import (Checkpoints)
from clmr_tf.errors import (ClmrError)
from tests.clmr_tf.train.saved_variables import (make_groups, names_in, save_steps, set_step, step_in)

disk = pathlib.Path(sys.argv[1])
groups = make_groups(num_values=100_000)  # 1.6 MB
checkpoints = Checkpoints(disk / "run" / "checkpoints", groups, keep=9)
try:
    for step in range(1, 9):
        set_step(groups, step)
        checkpoints.save(step)
        checkpoints.keep_best(step, disk / "run" / "best", {})
except ClmrError as error:
    print(error)
print(step, names_in(disk / "run" / "checkpoints"), names_in(disk / "run" / "best"))
(disk / "run" / "checkpoints" / "step-000000001" / "state.data-00000-of-00001").unlink()
set_step(groups, step)
checkpoints.save(step)
print(names_in(disk / "run" / "checkpoints"), checkpoints.restore())
"""

READ_ONLY = """
import pathlib, subprocess, sys
from clmr_tf.train.checkpoints import (Checkpoints, restore_newest)
from clmr_tf.errors import (ClmrError)
from tests.clmr_tf.train.saved_variables import (make_groups, names_in, save_steps, step_in)

folder = pathlib.Path(sys.argv[1]) / "checkpoints"
save_steps(folder, 1, 2)
(folder / ".step-000000009.draft").mkdir()
subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]], check=True)
before = names_in(folder)
groups = make_groups()
print(restore_newest(folder, groups), step_in(groups))
for writes in (False, True):
    checkpoints = Checkpoints(folder, groups, keep=1, writes=writes)
    print(checkpoints.restore(), step_in(groups))
for save in (lambda: checkpoints.save(3), lambda: checkpoints.keep_best(2, folder.with_name("best"), {})):
    try:
        save()
    except ClmrError as error:
        print(error)
assert names_in(folder) == before
"""


def run_on_a_small_disk(tmp_path: Path, size: str, program: str) -> list[str]:
    """Runs a program with the disk's path as its argument and returns the lines that it prints."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    python = [*STRICT_PYTHON, "-c", program, tmp_path]
    command = ["unshare", "-rm", "sh", "-c", SCRIPT, "sh", size, tmp_path, *python]
    finished = subprocess.run([str(one) for one in command], cwd=ROOT, capture_output=True, text=True, check=False)
    if finished.returncode == 99:
        pytest.skip("mounting a small disk is not permitted here")
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


@pytest.mark.soak
def test_full_disk_keeps_last_checkpoint_and_saves_once_there_is_space(tmp_path):
    error, before, after = run_on_a_small_disk(tmp_path, "7m", FILL)
    assert error.startswith(f"The checkpoint of step 5 could not be written to {tmp_path}/run/checkpoints because ")
    assert "because the disk is full; the last good checkpoint is step-000000004. Fix this" in error
    names = [f"step-{step:09d}" for step in range(1, 6)]
    assert before == f"5 {names[:4]} ['step-000000004']"
    assert after == f"{names} 5"


@pytest.mark.soak
def test_read_only_disk_can_be_read_and_saving_fails_with_reason(tmp_path):
    *restored, checkpoint, best = run_on_a_small_disk(tmp_path, "7m", READ_ONLY)
    assert restored == ["2 2"] * 3
    assert "step 3 could not be written" in checkpoint and "because Read-only file system;" in checkpoint
    assert "the last good checkpoint is step-000000002." in checkpoint
    assert "that of step 2, could not be kept" in best and "because Read-only file system;" in best


def test_save_fails_if_folder_cannot_be_created(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    words = "step 1 could not be written .* because File exists; there is no good checkpoint before it"
    with pytest.raises(ClmrError, match=words):
        Checkpoints(tmp_path / "checkpoints", make_groups(), keep=1).save(1)


def test_file_size_limit_keeps_previous_checkpoint(tmp_path):
    """Stands for a full disk where mounting is not permitted."""
    groups = save_steps(tmp_path, 5)
    checkpoints = Checkpoints(tmp_path, groups, keep=1)
    set_step(groups, 6)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, before[1]))
    try:
        with pytest.raises(
            ClmrError, match=r"step 6 could not be written .*; the last good checkpoint is step-000000005\."
        ):
            checkpoints.save(6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names_in(tmp_path) == ["step-000000005"]
    again = make_groups()
    assert restore_newest(tmp_path, again) == step_in(again) == 5
    checkpoints.save(6)
    assert names_in(tmp_path) == ["step-000000006"]


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.rename"])
def test_any_failing_call_keeps_previous_and_replaced_checkpoints(tmp_path, monkeypatch, call):
    groups = save_steps(tmp_path, 4, 5)
    checkpoints = Checkpoints(tmp_path, groups, keep=2)
    set_step(groups, 55)
    original = os.fsync if call == "os.fsync" else Path.rename
    count = 0
    for failing in range(1, 9):
        count = 0

        def fail_once(*arguments, failing=failing):
            nonlocal count
            count += 1
            if count == failing:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return original(*arguments)

        monkeypatch.setattr(call, fail_once)
        try:
            checkpoints.save(5)
        except ClmrError as error:
            assert "because Input/output error; the last good checkpoint is step-000000005" in str(error)
        monkeypatch.undo()
        assert names_in(tmp_path) == ["step-000000004", "step-000000005"]
        again = make_groups()
        assert restore_newest(tmp_path, again) == 5 and step_in(again) in (5, 55)
    assert 1 < count < failing and step_in(again) == 55


def test_files_are_synced_before_rename_and_rename_before_removal(tmp_path, monkeypatch):
    groups = save_steps(tmp_path / "checkpoints", 4)
    calls = []
    sync, rename = os.fsync, Path.rename

    def noted_sync(handle):
        calls.append(("sync", Path(f"/proc/self/fd/{handle}").readlink().name))
        sync(handle)

    def noted_rename(source, target):
        calls.append(("rename", source.name, Path(target).name))
        return rename(source, target)

    monkeypatch.setattr("os.fsync", noted_sync)
    monkeypatch.setattr("pathlib.Path.rename", noted_rename)
    Checkpoints(tmp_path / "checkpoints", groups, keep=1).save(5)
    files = ["checksums.json", "state.data-00000-of-00001", "state.index"]
    assert sorted(calls[:3]) == [("sync", name) for name in files]
    assert calls[3:] == [
        ("sync", ".step-000000005.draft"),
        ("rename", ".step-000000005.draft", "step-000000005"),
        ("sync", "checkpoints"),
        ("sync", tmp_path.name),
        ("rename", "step-000000004", ".step-000000004.removed"),
    ]
