"""Runs that are killed and resumed, stopped by signals, or trained where there are none."""

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from clmr_tf.config import TrainConfig
from clmr_tf.console import run_command
from clmr_tf.training import train
from tests.clmr_tf.training_runs import PATIENCE_SECONDS, command, finish, metrics, start, starts, state, wait_for
from tests.synthetic import write_corpus

FOREVER = "1000000"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpora") / "melodies", num_songs={"train": 10}, tag_names=("a", "b"))


def inode_of(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None


def test_a_run_killed_at_any_moment_ends_as_if_it_never_was(corpus, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    moments = random.Random(2021)
    for number_of_start in (1, 2):
        before = inode_of(killed / "metrics.jsonl")
        process = start(command(corpus, killed, "--num-audio-examples", "0", "--steps", FOREVER))

        def has_saved_a_step_of_its_own(number_of_start=number_of_start, before=before):
            # What an earlier start logged too much is cut in a new file, so from then on all rows are good.
            if len(starts(killed)) < number_of_start or inode_of(killed / "metrics.jsonl") == before:
                return False
            # A checkpoint is saved every three steps.
            return len(metrics(killed)) > starts(killed)[-1]["first_step"] + 3

        wait_for(has_saved_a_step_of_its_own, process)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    num_steps = str(len(metrics(killed)) + 2)
    last = ["--num-audio-examples", "0", "--steps", num_steps]
    for process in [start(command(corpus, workdir, *last)) for workdir in (killed, whole)]:
        finish(process)

    first_steps = [one["first_step"] for one in starts(killed)]
    assert len(first_steps) == 3 and first_steps[0] == 0 and first_steps == sorted(set(first_steps))
    expected, received = state(whole), state(killed)
    # 57 variables of the model, among them 22 running statistics, and 72 of Adam.
    assert expected.keys() == received.keys() and len(expected) == 57 + 72
    different = [name for name in expected if expected[name].tobytes() != received[name].tobytes()]
    assert different == []
    assert metrics(killed) == metrics(whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_so(corpus, tmp_path, number, code):
    process = start(command(corpus, tmp_path / "run", "--steps", FOREVER, "--checkpoint-every", FOREVER))
    wait_for(lambda: len(metrics(tmp_path / "run")) >= 2, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == code
    assert "is saved; the same command goes on from there" in errors and "Traceback" not in errors
    step = len(metrics(tmp_path / "run"))
    assert (tmp_path / "run" / "checkpoints" / f"step-{step:09d}").exists()
    assert f"after step {step}," in errors


def test_sigterm_before_the_first_step_is_said(corpus, tmp_path):
    (tmp_path / "run").mkdir()
    # Nobody writes into this pipe, so the run waits for its record for ever and never comes to its first step.
    os.mkfifo(tmp_path / "run" / "run.json")
    process = start(command(corpus, tmp_path / "run", "--steps", FOREVER))
    wait_for((tmp_path / "run" / ".lock").exists, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 143
    assert errors.splitlines()[-1] == "error: Terminated." and "Traceback" not in errors


def config_of(corpus, workdir: Path, **settings) -> TrainConfig:
    return TrainConfig(corpus=str(corpus.folder), workdir=workdir, width=0.0625, batch_size=4, log_every=1, **settings)


@pytest.mark.parametrize(
    ("first", "second", "code", "words"),
    [
        (signal.SIGTERM, signal.SIGTERM, 143, "Terminated."),
        (signal.SIGINT, signal.SIGTERM, 143, "Terminated."),
        (signal.SIGTERM, signal.SIGINT, 130, "Interrupted."),
    ],
)
def test_a_second_signal_ends_the_run_at_once_with_its_own_code(corpus, tmp_path, capsys, first, second, code, words):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    steps = []

    def signal_twice(step, _scalars):
        steps.append(step)
        signal.raise_signal(first)
        signal.raise_signal(second)

    config = config_of(corpus, tmp_path / "run", steps=9)
    assert run_command(lambda _: train(config, signal_twice), []) == code
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {words}"
    assert steps == [1] and not list((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_a_thread_beside_the_main_one_can_train(corpus, tmp_path):
    """As in a server; only the main thread may handle signals."""
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(train(config_of(corpus, tmp_path / "run", steps=1))))
    thread.start()
    thread.join()
    assert [outcome.first_step for outcome in outcomes] == [0]
    assert [row["step"] for row in metrics(tmp_path / "run")] == [1]
