"""Stopping during a validation, and completing the missing row after resuming."""

import json
import signal
import time

import pytest

from clmr_tf.config.train import TrainConfig
from clmr_tf.train import run as training
from clmr_tf.train.run import train
from tests.clmr_tf.train.training_runs import PATIENCE_SECONDS, metrics, start, state, wait_for
from tests.synthetic import synthetic_corpus

pytestmark = pytest.mark.usefixtures("tiny_network")

SETTINGS = {"width": 0.0625, "batch_size": 4, "log_every": 1, "checkpoint_every": 5, "steps": 4, "validate_every": 2}
SETTINGS |= {"augmentation": "only-gain", "num_audio_examples": 0, "embeddings_every": 0}
# Larger gathered numbers are digests of settings, which must be equal.
SMALL = 1000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "melodies"
    return synthetic_corpus(folder, num_songs={"train": 9, "valid": 4}, tag_names=("a", "b"))


def arguments_of(corpus, workdir, **changes) -> list[str]:
    settings = {"corpus": corpus.folder, "workdir": workdir, **SETTINGS, **changes}
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.mark.soak
def test_signal_during_validation_stops_quickly_and_resume_is_bit_identical(corpus, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    # This validation would take hours.
    process = start(arguments_of(corpus, killed, num_validation_pairs=10_000_000))
    wait_for(lambda: [row["step"] for row in metrics(killed)] == [1], process)
    # By then step 2 is done and its validation is running.
    time.sleep(5)
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 143 and time.monotonic() - sent < 30
    assert "Stopped after step 2, which is saved" in errors
    # The row of step 2 is not written before its validation, but its metrics are in the checkpoint.
    assert [row["step"] for row in metrics(killed)] == [1]
    assert "loss" in json.loads((killed / "checkpoints" / "step-000000002" / "metrics.json").read_text())

    for workdir in (killed, whole):
        train(TrainConfig(corpus=str(corpus.folder), workdir=workdir, **SETTINGS, num_validation_pairs=8))
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    one, other = state(killed), state(whole)
    assert one.keys() == other.keys() and [name for name in one if one[name].tobytes() != other[name].tobytes()] == []
    assert [path.name for path in (killed / "best").iterdir()] == [path.name for path in (whole / "best").iterdir()]


def test_worker_resumes_even_if_the_chief_has_already_logged_the_missing_row(corpus, tmp_path, monkeypatch):
    settings = {"corpus": str(corpus.folder), "workdir": tmp_path, **SETTINGS, "steps": 1, "num_validation_pairs": 4}
    config = TrainConfig(**settings)
    train(config)
    # As if killed before the last row was written.
    row = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(b"")
    resumed_at = []

    def gather_with_a_fast_chief(_strategy, number):
        if number > SMALL:
            return [number, number]
        # The chief completes the row before this worker continues.
        (tmp_path / "metrics.jsonl").write_bytes(row)
        return [number, number]

    monkeypatch.setattr(training, "worker_index", lambda _strategy: 1)
    monkeypatch.setattr(training, "gather_over_workers", gather_with_a_fast_chief)
    monkeypatch.setattr(training._Run, "train_as_worker", lambda run: resumed_at.append(run.first_step) or 1)
    train(config)
    assert resumed_at == [1]
    # Without a missing row there is nothing left to do.
    assert train(config).first_step == 1 and resumed_at == [1]


@pytest.mark.soak
def test_chief_decides_whether_a_row_is_missing(corpus, tmp_path, monkeypatch):
    config = TrainConfig(
        **{"corpus": str(corpus.folder), "workdir": tmp_path, **SETTINGS, "steps": 1, "num_validation_pairs": 4}
    )
    train(config)
    resumed_at = []
    # The chief has a row that a network file system does not show to the worker yet.
    monkeypatch.setattr(training, "worker_index", lambda _strategy: 1)
    monkeypatch.setattr(training, "gather_over_workers", lambda _strategy, number: [number + (number < SMALL), number])
    monkeypatch.setattr(training._Run, "train_as_worker", lambda run: resumed_at.append(run.first_step) or 1)
    train(config)
    assert resumed_at == [1]


@pytest.mark.soak
def test_worker_completes_a_missing_row_without_the_metrics_of_the_chief(corpus, tmp_path, monkeypatch):
    settings = {"corpus": str(corpus.folder), "workdir": tmp_path, **SETTINGS, "steps": 2, "num_validation_pairs": 4}
    train(TrainConfig(**settings))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text(lines[0])
    monkeypatch.setattr(training, "worker_index", lambda _strategy: 1)
    reports = []
    # The report needs metrics, so it would fail if it were called.
    assert train(TrainConfig(**settings), lambda progress: reports.append(progress.metrics["loss"])).num_steps == 2
    assert reports == []
