"""A profile says when it could not be what was asked for."""

import pytest

from clmr_tf.train import callbacks as profile
from clmr_tf.train.callbacks import StepProfile

pytestmark = pytest.mark.usefixtures("tiny_network")

FIRST_STEP = 100


@pytest.fixture
def profiler(monkeypatch):
    """What the profiler is told, in order."""
    told = []
    monkeypatch.setattr(profile.tf.profiler.experimental, "start", told.append)
    monkeypatch.setattr(profile.tf.profiler.experimental, "stop", lambda: told.append("stop"))
    return told


def warnings_of(num_steps: int, folder, caplog) -> list[str]:
    steps = StepProfile(folder, FIRST_STEP)
    for step in range(FIRST_STEP + 1, FIRST_STEP + num_steps + 1):
        steps.after_step(step)
    steps.close()
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("num_steps", "num_profiled"), [(0, "none"), (8, "none"), (9, "none"), (10, "1"), (12, "3"), (19, "10")]
)
def test_a_run_that_ends_too_early_for_its_profile_is_told(profiler, tmp_path, caplog, num_steps, num_profiled):
    (warning,) = warnings_of(num_steps, tmp_path, caplog)
    assert f"{num_profiled} of the 11 steps" in warning and f"after {num_steps} steps" in warning
    assert profiler == ([str(tmp_path), "stop"] if num_steps >= 9 else [])


@pytest.mark.parametrize("num_steps", [20, 21, 50])
def test_a_profile_that_is_whole_needs_no_words(profiler, tmp_path, caplog, num_steps):
    assert warnings_of(num_steps, tmp_path, caplog) == []
    assert profiler == [str(tmp_path), "stop"]
