"""When a run warns about skipped steps, and when it fails because of them."""

import logging
import re
from pathlib import Path

import pytest

from clmr_tf.console import run_command
from clmr_tf.errors import ClmrError
from clmr_tf.export.__main__ import main as export
from clmr_tf.train.__main__ import main as train
from clmr_tf.train.callbacks import Progress, WarnOfSkippedSteps
from clmr_tf.train.checkpoints import list_checkpoints
from clmr_tf.train.failures import require_trained
from tests.synthetic import synthetic_corpus

pytestmark = pytest.mark.usefixtures("tiny_network")


def warned_at(caplog, skipped: WarnOfSkippedSteps, numbers: dict[int, int]) -> list[int]:
    """Returns the numbers of skipped steps at which the callback warned."""
    found = []
    for step, num_skipped in numbers.items():
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            skipped(Progress(step, 10**6, metrics={"num_skipped": float(num_skipped)}))
        assert len(caplog.records) <= 1
        found += [num_skipped] * len(caplog.records)
    return found


def test_warns_each_time_the_number_of_skipped_steps_doubles(caplog):
    every_second = {step: step // 2 for step in range(1, 300)}
    assert warned_at(caplog, WarnOfSkippedSteps(0, 0), every_second) == [1, 2, 4, 8, 16, 32, 64, 128]
    # A resumed run has already warned about the earlier ones.
    later = {step: step // 2 for step in range(300, 700)}
    assert warned_at(caplog, WarnOfSkippedSteps(299, 149), later) == [298]


def test_warns_when_many_steps_are_skipped_at_once(caplog):
    few = {step: 1000 + (step - 100_000) // 10 for step in range(100_010, 100_100, 10)}
    assert warned_at(caplog, WarnOfSkippedSteps(100_000, 1000), few) == []
    all_of_them = {step: 1009 + step - 100_090 for step in range(100_100, 100_200, 10)}
    again = {100_200: 1109, 100_220: 1112, 100_230: 1115}
    assert warned_at(caplog, WarnOfSkippedSteps(100_090, 1009), all_of_them | again) == [1019, 1112]


def test_no_warning_without_skipped_steps(caplog):
    assert warned_at(caplog, WarnOfSkippedSteps(0, 0), dict.fromkeys(range(1, 100), 0)) == []


def test_run_fails_if_more_than_half_of_its_steps_were_skipped():
    require_trained(Path("run"), 12, 6)
    require_trained(Path("run"), 1, 0)
    for num_steps, num_skipped in ((12, 7), (1, 1), (13, 7)):
        with pytest.raises(ClmrError, match=rf"^{num_skipped} of the {num_steps} steps of the run in run were skipped"):
            require_trained(Path("run"), num_steps, num_skipped)


@pytest.mark.soak
def test_training_and_export_fail_if_most_steps_were_skipped(tmp_path, capsys):
    corpus = synthetic_corpus(tmp_path / "melodies", num_songs={"train": 4}, num_samples=60_000, tag_names=("a", "b"))
    # The first step makes the weights so large that no later one is finite.
    options = {"corpus": corpus.folder, "workdir": tmp_path / "run", "width": 0.0625, "batch-size": 4, "steps": 12}
    options |= {"optimizer": "sgd", "learning-rate": "1e25", "on-nonfinite": "skip", "augmentation": "none"}
    options |= {"num-audio-examples": 0, "embeddings-every": 0, "validate-every": 0}
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    # Running the same command again fails in the same way.
    for _ in range(2):
        assert run_command(train, arguments) == 1
        errors = " ".join(capsys.readouterr().err.split())
        assert re.search(
            r"error: 11 of the 12 steps of the run in \S+ were skipped because their loss or gradient", errors
        )
        assert errors.endswith("in a new --workdir.") and "Traceback" not in errors
    # The state is kept for debugging.
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[0].name == "step-000000012"
    assert run_command(export, ["--model", str(tmp_path / "run"), "--out", str(tmp_path / "model")]) == 1
    errors = " ".join(capsys.readouterr().err.split())
    assert re.fullmatch(
        r"error: The model's numbers for the golden clips, `embedding`, are not finite .*, so nothing was written; .*",
        errors,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["melodies", "run"]
