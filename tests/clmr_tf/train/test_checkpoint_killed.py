"""A process that is killed while it saves always leaves complete checkpoints."""

import itertools
import multiprocessing
import random
import time
from pathlib import Path

import pytest

from clmr_tf.train.checkpoints import Checkpoints, find_best, find_damage, list_checkpoints, restore_newest, step_of
from tests.clmr_tf.train.saved_variables import make_groups, set_step, step_in

NUM_KILLS = 8
NUM_VALUES = 200_000


def save_for_ever(folder: Path) -> None:
    groups = make_groups(num_values=NUM_VALUES)
    checkpoints = Checkpoints(folder, groups, keep=2)
    for step in itertools.count(checkpoints.restore() + 1):
        set_step(groups, step)
        checkpoints.save(step)
        checkpoints.keep_best(step, folder.parent / "best", {})


def newest_step(folder: Path) -> int:
    return max(map(step_of, list_checkpoints(folder)), default=0)


# tests/clmr_tf/train/test_training_killed.py kills a whole run while it saves.
@pytest.mark.soak
def test_kill_at_any_time_leaves_complete_checkpoints(tmp_path):
    folder = tmp_path / "checkpoints"
    context = multiprocessing.get_context("forkserver")
    # Imports TensorFlow once for all processes.
    context.set_forkserver_preload(["clmr_tf.train.checkpoints"])
    moments = random.Random(7)
    groups = make_groups(num_values=NUM_VALUES)
    remains = set()
    for _ in range(NUM_KILLS):
        before = newest_step(folder)
        process = context.Process(target=save_for_ever, args=(folder,))
        process.start()
        deadline = time.monotonic() + 120
        while newest_step(folder) < before + 3:
            assert process.is_alive() and time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        process.join()
        remains |= {path.suffix for path in folder.glob(".step-*")}
        found = list_checkpoints(folder)
        assert len(found) in (2, 3) and [find_damage(path) for path in found] == [None] * len(found)
        step = restore_newest(folder, groups)
        assert step == step_in(groups) >= before + 3
        best = restore_newest(tmp_path / "best", groups)
        assert best == step_in(groups) == find_best(tmp_path / "best")["step"]
        assert [path.name for path in (tmp_path / "best").iterdir()] == [f"step-{best:09d}"]
        assert best in (step - 1, step)
    # At least one kill must have come while a checkpoint was being written.
    assert ".draft" in remains
