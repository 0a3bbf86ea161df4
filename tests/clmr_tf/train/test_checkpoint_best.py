"""The best checkpoint on disk, which is kept when newer checkpoints are rotated out."""

import json
import os
import shutil

import pytest

from clmr_tf.errors import ClmrError
from clmr_tf.train.checkpoints import Checkpoints, find_best, restore_newest
from tests.clmr_tf.train.saved_variables import make_groups, names_in, save_steps, set_step, step_in

FILES = ["best.json", "checksums.json", "state.data-00000-of-00001", "state.index"]


def keep_best_of(tmp_path, *steps: int) -> Checkpoints:
    groups = make_groups()
    checkpoints = Checkpoints(tmp_path / "checkpoints", groups, keep=1)
    checkpoints.restore()
    for step in steps:
        set_step(groups, step)
        checkpoints.save(step)
        checkpoints.keep_best(step, tmp_path / "best", {"value": 1 / step})
    return checkpoints


def test_no_best_checkpoint_at_first(tmp_path):
    keep_best_of(tmp_path)
    assert find_best(tmp_path / "best") is None
    assert restore_newest(tmp_path / "best", make_groups()) is None


def test_best_and_its_metric_outlive_the_original_checkpoint(tmp_path):
    keep_best_of(tmp_path, 2, 4)
    save_steps(tmp_path / "checkpoints", 5, 6, keep=1)
    assert names_in(tmp_path / "checkpoints") == ["step-000000006"]
    assert names_in(tmp_path / "best") == ["step-000000004"]
    assert names_in(tmp_path / "best" / "step-000000004") == FILES
    reason = json.loads((tmp_path / "best" / "step-000000004" / "best.json").read_text())
    assert reason == find_best(tmp_path / "best") == {"step": 4, "value": 0.25}
    groups = make_groups()
    assert restore_newest(tmp_path / "best", groups) == step_in(groups) == 4


def test_best_is_hard_linked_or_copied_if_links_fail(tmp_path, monkeypatch):
    keep_best_of(tmp_path, 2)
    file = "step-000000002/state.index"
    assert (tmp_path / "best" / file).samefile(tmp_path / "checkpoints" / file)

    def refuse(*_arguments, **_options):
        raise OSError(18, os.strerror(18))

    monkeypatch.setattr("os.link", refuse)
    keep_best_of(tmp_path, 4)
    file = "step-000000004/state.index"
    assert not (tmp_path / "best" / file).samefile(tmp_path / "checkpoints" / file)
    groups = make_groups()
    assert restore_newest(tmp_path / "best", groups) == step_in(groups) == 4


def test_earlier_step_can_replace_best(tmp_path):
    keep_best_of(tmp_path, 4)
    earlier = tmp_path / "earlier"
    save_steps(earlier, 3)
    Checkpoints(earlier, make_groups(), keep=1).keep_best(3, tmp_path / "best", {"value": 0.1})
    assert names_in(tmp_path / "best") == ["step-000000003"]


@pytest.mark.parametrize("content", [b"", b"{", b"7", b'"\xff"', None])
def test_best_with_unreadable_metric_is_ignored_and_replaced(tmp_path, caplog, content):
    keep_best_of(tmp_path, 2)
    path = tmp_path / "best" / "step-000000002" / "best.json"
    path.unlink() if content is None else path.write_bytes(content)
    assert find_best(tmp_path / "best") is None
    assert "step-000000002 is damaged (best.json cannot be read)" in caplog.text
    keep_best_of(tmp_path, 3)
    assert find_best(tmp_path / "best")["value"] == 1 / 3
    assert names_in(tmp_path / "best") == ["step-000000003"]


def test_damaged_best_checkpoint_is_ignored(tmp_path, caplog):
    keep_best_of(tmp_path, 2)
    (tmp_path / "best" / "step-000000002" / "state.index").write_bytes(b"")
    assert find_best(tmp_path / "best") is None
    assert "step-000000002 is damaged (state.index is truncated" in caplog.text


def test_failure_to_keep_best_leaves_previous_best(tmp_path):
    checkpoints = keep_best_of(tmp_path, 2)
    words = r"that of step 3, could not be kept in .*best because .*; the last good checkpoint is step-000000002\."
    with pytest.raises(ClmrError, match=words):
        checkpoints.keep_best(3, tmp_path / "best", {"value": 0.1})
    assert names_in(tmp_path / "best") == ["step-000000002"]


def test_find_best_removes_leftovers_of_a_kill(tmp_path):
    keep_best_of(tmp_path, 2)
    best = tmp_path / "best"
    # Killed before the previous best was removed, and while it was being removed.
    for name in ("step-000000001", ".step-000000000.removed"):
        shutil.copytree(best / "step-000000002", best / name)
    assert find_best(best) == {"step": 2, "value": 0.5}
    assert [path.name for path in best.iterdir()] == ["step-000000002"]


def test_find_best_falls_back_to_previous_best_left_by_a_kill(tmp_path):
    keep_best_of(tmp_path, 2)
    shutil.copytree(tmp_path / "best" / "step-000000002", tmp_path / "best" / "step-000000003")
    assert find_best(tmp_path / "best") == {"step": 2, "value": 0.5}
    assert names_in(tmp_path / "best") == ["step-000000002"]
