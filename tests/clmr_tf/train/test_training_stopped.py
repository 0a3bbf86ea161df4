"""Runs that are stopped by signals or trained outside the main thread."""

import errno
import os
import signal
import threading
from pathlib import Path

import pytest

from clmr_tf.config.train import TrainConfig
from clmr_tf.console import run_command
from clmr_tf.train.run import train
from tests.clmr_tf.train.training_runs import PATIENCE_SECONDS, command, metrics, start, wait_for
from tests.synthetic import synthetic_corpus

pytestmark = pytest.mark.usefixtures("tiny_network")

FOREVER = "1000000"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return synthetic_corpus(
        tmp_path_factory.mktemp("corpora") / "melodies", num_songs={"train": 10}, tag_names=("a", "b")
    )


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.soak)]
)
def test_signal_saves_the_run_and_reports_it(corpus, tmp_path, number, code):
    process = start(command(corpus, tmp_path / "run", "--steps", FOREVER, "--checkpoint-every", FOREVER))
    wait_for(lambda: len(metrics(tmp_path / "run")) >= 2, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == code
    assert "is saved; the same command resumes the run" in errors and "Traceback" not in errors
    step = len(metrics(tmp_path / "run"))
    assert (tmp_path / "run" / "checkpoints" / f"step-{step:09d}").exists()
    assert f"after step {step}," in errors


@pytest.mark.soak
def test_sigterm_before_the_first_step_is_reported(corpus, tmp_path):
    (tmp_path / "run").mkdir()
    # Nothing is written to this pipe, so the run waits for its record forever and never reaches its first step.
    record = tmp_path / "run" / "run.json"
    os.mkfifo(record)
    writers = []

    def is_waiting():
        try:
            writers.append(os.open(record, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            # Nobody has opened the pipe for reading yet.
            assert error.errno == errno.ENXIO
        return bool(writers)

    process = start(command(corpus, tmp_path / "run", "--steps", FOREVER))
    wait_for(is_waiting, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    os.close(writers[0])
    assert process.returncode == 143
    assert errors.splitlines()[-1] == "error: Terminated." and "Traceback" not in errors


def config_of(corpus, workdir: Path, **settings) -> TrainConfig:
    quick = {"width": 0.0625, "batch_size": 4, "log_every": 1, "augmentation": "none", "num_audio_examples": 0}
    quick |= {"validate_every": 0}
    return TrainConfig(corpus=str(corpus.folder), workdir=workdir, **quick, **settings)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("first", "second", "code", "words"),
    [
        (signal.SIGTERM, signal.SIGTERM, 143, "Terminated."),
        (signal.SIGINT, signal.SIGTERM, 143, "Terminated."),
        (signal.SIGTERM, signal.SIGINT, 130, "Interrupted."),
    ],
)
def test_second_signal_ends_the_run_at_once_with_its_exit_code(corpus, tmp_path, capsys, first, second, code, words):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    steps = []

    def signal_twice(progress):
        steps.append(progress.step)
        signal.raise_signal(first)
        signal.raise_signal(second)

    config = config_of(corpus, tmp_path / "run", steps=9)
    assert run_command(lambda _: train(config, signal_twice), []) == code
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {words}"
    assert steps == [1] and not list((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers


@pytest.mark.soak
def test_training_works_outside_the_main_thread(corpus, tmp_path):
    """Only the main thread may install signal handlers."""
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(train(config_of(corpus, tmp_path / "run", steps=1))))
    thread.start()
    thread.join()
    assert [outcome.first_step for outcome in outcomes] == [0]
    assert [row["step"] for row in metrics(tmp_path / "run")] == [1]
