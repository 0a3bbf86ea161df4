"""Runs that are killed repeatedly end bit-identical to uninterrupted runs, on one device and on two."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from clmr_tf.train.checkpoints import list_checkpoints
from tests.clmr_tf.train.training_runs import PATIENCE_SECONDS, command, finish, metrics, start, starts, state, wait_for
from tests.synthetic import synthetic_corpus

pytestmark = pytest.mark.starts_first
# `make soak` kills more often, on two devices too, and uses all augmentations, which dominate the time until the first
# step of each start.
NUM_KILLS = int(os.environ.get("CLMR_TF_NUM_KILLS", "1"))
AUGMENTATION = "only-noise" if NUM_KILLS <= 10 else "released"
FOREVER = "1000000"
SETTINGS = ["--checkpoint-every", "1", "--validate-every", "2"]
DEVICES = {"one": ["--strategy", "single"], "two": ["--strategy", "mirrored", "--num-replicas", "2"]}


def inode_of(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None


def drafts(workdir: Path) -> list[Path]:
    return [path for folder in ("checkpoints", "best") for path in (workdir / folder).glob(".step-*")]


def freeze_while_saving(workdir: Path, process, moments: random.Random) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        while not drafts(workdir) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.0005)
        time.sleep(moments.uniform(0, 0.01))
        process.send_signal(signal.SIGSTOP)
        if drafts(workdir):
            return
        process.send_signal(signal.SIGCONT)
    raise AssertionError("no checkpoint was being written")


def kill(workdir: Path, arguments: list[str], moments: random.Random, kind: str) -> None:
    """Starts a run and kills it while it is starting, stepping or saving."""
    num_starts, before = len(starts(workdir)), inode_of(workdir / "metrics.jsonl")

    def has_begun() -> bool:
        return len(starts(workdir)) > num_starts

    def has_saved_a_step_of_its_own() -> bool:
        # The start writes the log anew without rows after its checkpoint; from then on all rows are valid.
        if not has_begun() or inode_of(workdir / "metrics.jsonl") == before:
            return False
        return len(metrics(workdir)) > starts(workdir)[-1]["first_step"] + 1

    process = start([*arguments, "--steps", FOREVER])
    try:
        wait_for(has_begun if kind == "starting" else has_saved_a_step_of_its_own, process)
        if kind == "saving":
            freeze_while_saving(workdir, process, moments)
        else:
            time.sleep(moments.uniform(0, 0.5))
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert kind != "saving" or drafts(workdir)


def kill_again_and_again(corpus, folder: Path, arguments: list[str], num_kills: int) -> list[str]:
    """Trains one run with kills and one without; returns the kinds of kills."""
    moments = random.Random(num_kills)
    kinds = [("saving", "starting", "stepping")[number % 3] for number in range(num_kills)]
    runs = [command(corpus, folder / name, *SETTINGS, *arguments) for name in ("killed", "whole")]
    for kind in kinds:
        kill(folder / "killed", runs[0], moments, kind)
    # The last line may be incomplete.
    num_steps = str((folder / "killed" / "metrics.jsonl").read_bytes().count(b"\n") + 2)
    for process in [start([*run, "--steps", num_steps]) for run in runs]:
        finish(process)
    return kinds


def curves(workdir: Path) -> dict[str, list[tuple[int, bytes]]]:
    """Returns TensorBoard's scalars except the speed."""
    events = EventAccumulator(str(workdir / "tensorboard"), tensor_size_guidance={"scalars": 0})
    events.Reload()
    tags = set(events.Tags()["tensors"]) - {"training/clips_per_second"}
    scalars = [tag for tag in tags if events.SummaryMetadata(tag).plugin_data.plugin_name == "scalars"]
    return {tag: [(one.step, one.tensor_proto.SerializeToString()) for one in events.Tensors(tag)] for tag in scalars}


def assert_same_bits(expected: dict, received: dict) -> None:
    assert expected.keys() == received.keys()
    assert [name for name in expected if expected[name].tobytes() != received[name].tobytes()] == []


@pytest.mark.parametrize("devices", ["one", pytest.param("two", marks=pytest.mark.soak)])
def test_killed_run_ends_bit_identical_to_an_uninterrupted_run(tmp_path, devices):
    corpus = synthetic_corpus(tmp_path / "melodies", num_songs={"train": 10, "valid": 4}, tag_names=("a", "b"))
    arguments = [*DEVICES[devices], "--augmentation", AUGMENTATION]
    kinds = kill_again_and_again(corpus, tmp_path, arguments, NUM_KILLS)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    first_steps = [one["first_step"] for one in starts(killed)]
    assert len(first_steps) == len(kinds) + 1 and first_steps == sorted(first_steps)
    assert len(set(first_steps)) > len(kinds) - kinds.count("starting")

    # Variables of the model, among them running statistics, and of Adam, and the number of skipped steps.
    assert len(state(whole)) == 22 + 30 + 1
    assert_same_bits(state(whole), state(killed))
    assert_same_bits(state(whole, "best"), state(killed, "best"))
    checkpoints = [[path.name for path in list_checkpoints(run / "checkpoints")] for run in (whole, killed)]
    assert checkpoints[0] == checkpoints[1] and len(checkpoints[0]) == 3
    best = [list_checkpoints(run / "best") for run in (whole, killed)]
    assert len(best[0]) == 1 and [path.name for path in best[0]] == [path.name for path in best[1]]
    assert (best[0][0] / "best.json").read_bytes() == (best[1][0] / "best.json").read_bytes()
    assert drafts(killed) == []

    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    rows = metrics(whole)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    expected, received = curves(whole), curves(killed)
    assert {"training/loss", "training/gradient_norm", "validation/loss", "validation/accuracy"} < expected.keys()
    assert [step for step, _ in expected["training/loss"]] == [row["step"] for row in rows]
    assert len(expected["validation/loss"]) == sum("validation_loss" in row for row in rows) >= 2
    assert received == expected
