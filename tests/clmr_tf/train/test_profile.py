"""Warnings about incomplete profiles."""

import pytest

from clmr_tf.train import callbacks
from clmr_tf.train.callbacks import ProfileSteps, Progress

FIRST_STEP = 100


@pytest.fixture
def profiler(monkeypatch):
    """Records the calls of the profiler in order."""
    calls = []
    monkeypatch.setattr(callbacks.tf.profiler.experimental, "start", calls.append)
    monkeypatch.setattr(callbacks.tf.profiler.experimental, "stop", lambda: calls.append("stop"))
    return calls


def warnings_of(num_steps: int, folder, caplog) -> list[str]:
    profile_steps = ProfileSteps(folder, FIRST_STEP)
    for step in range(FIRST_STEP + 1, FIRST_STEP + num_steps + 1):
        profile_steps(Progress(step, 10**6))
    profile_steps.close()
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("num_steps", "num_profiled"), [(0, "none"), (8, "none"), (9, "none"), (10, "1"), (12, "3"), (19, "10")]
)
def test_run_that_ends_before_its_profile_is_complete_warns(profiler, tmp_path, caplog, num_steps, num_profiled):
    (warning,) = warnings_of(num_steps, tmp_path, caplog)
    assert f"{num_profiled} of its 11 steps" in warning and f"after {num_steps} steps" in warning
    assert profiler == ([str(tmp_path), "stop"] if num_steps >= 9 else [])


@pytest.mark.parametrize("num_steps", [20, 21, 50])
def test_complete_profile_does_not_warn(profiler, tmp_path, caplog, num_steps):
    assert warnings_of(num_steps, tmp_path, caplog) == []
    assert profiler == [str(tmp_path), "stop"]
