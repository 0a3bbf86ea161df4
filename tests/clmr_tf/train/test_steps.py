"""When a run logs, validates, saves and stops, for any number of steps per execution."""

import contextlib
import math

import pytest

from clmr_tf.config.train import TrainConfig
from clmr_tf.console import run_command
from clmr_tf.errors import ClmrError
from clmr_tf.train import run as training
from clmr_tf.train.__main__ import main
from clmr_tf.train.run import train
from tests.clmr_tf.train.training_runs import metrics, state
from tests.synthetic import synthetic_corpus

pytestmark = pytest.mark.usefixtures("tiny_network")

SONGS = {"train": 9, "valid": 3}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "melodies"
    return synthetic_corpus(folder, num_songs=SONGS, num_samples=60_000, tag_names=("a", "b"))


def config_of(corpus, workdir, **settings) -> TrainConfig:
    quick = {"width": 0.0625, "batch_size": 4, "augmentation": "none", "num_audio_examples": 0, "embeddings_every": 0}
    quick |= {"validate_every": 0, "num_validation_pairs": 4}
    return TrainConfig(**{"corpus": str(corpus.folder), "workdir": workdir, **quick, **settings})


def steps_saved(workdir) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (workdir / "checkpoints").iterdir())


def test_steps_per_execution_stops_when_a_callback_is_due_and_equals_single_steps(corpus, tmp_path):
    whens = {"log_every": 4, "checkpoint_every": 5, "validate_every": 9, "steps": 11}
    stops = {1: [], 3: []}
    for steps_per_execution, seen in stops.items():
        config = config_of(
            corpus, tmp_path / str(steps_per_execution), steps_per_execution=steps_per_execution, **whens
        )
        train(config, lambda at, seen=seen: seen.append((at.step, at.num_steps, at.metrics is not None)))
    logged = {4, 8, 9, 11}
    assert stops[1] == [(step, 11, step in logged) for step in range(1, 12)]
    # After at most three steps, at a multiple of 4, 5 or 9, or at the end.
    assert stops[3] == [(step, 11, step in logged) for step in (3, 4, 5, 8, 9, 10, 11)]
    rows = metrics(tmp_path / "1")
    assert [row["step"] for row in rows] == sorted(logged) and rows == metrics(tmp_path / "3")
    assert [row["step"] for row in rows if "validation_loss" in row] == [9, 11]
    # The newest three; step 9 is saved because its validation is the first and so the best.
    assert steps_saved(tmp_path / "1") == steps_saved(tmp_path / "3") == [9, 10, 11]
    one, three = state(tmp_path / "1"), state(tmp_path / "3")
    assert one.keys() == three.keys() and len(one) == 22 + 30 + 1
    assert [name for name in one if one[name].tobytes() != three[name].tobytes()] == []


def test_epochs_and_cosine_with_warm_up_from_command_line(corpus, tmp_path, capsys):
    options = {"corpus": corpus.folder, "workdir": tmp_path, "width": 0.0625, "batch-size": 4, "augmentation": "none"}
    options |= {"num-audio-examples": 0, "embeddings-every": 0, "validate-every": 0, "log-every": 1, "optimizer": "sgd"}
    options |= {"epochs": 3, "warmup-epochs": 1, "schedule": "cosine", "learning-rate": 0.02}
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    assert run_command(main, arguments) == 0
    # Nine songs are two batches of four.
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 7))
    expected = [0.0, 0.01, *(0.01 * (1 + math.cos(math.pi * (done - 2) / 4)) for done in (2, 3, 4, 5))]
    assert [row["learning_rate"] for row in rows] == pytest.approx(expected, rel=1e-5, abs=1e-9)
    capsys.readouterr()
    # In a longer run the last step would have had another learning rate.
    assert run_command(main, [*arguments, "--epochs", "4"]) == 2
    assert "epochs 3 -> 4 (--schedule cosine" in capsys.readouterr().err
    # The message must not suggest what would be rejected.
    assert run_command(main, arguments) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "already has 6 steps; its cosine schedule reached zero at the last step" in said
    assert "use more" not in said


@pytest.mark.soak
def test_run_in_epochs_is_extended_in_epochs(corpus, tmp_path, capsys):
    options = {"corpus": corpus.folder, "workdir": tmp_path, "width": 0.0625, "batch-size": 4, "augmentation": "none"}
    options |= {"num-audio-examples": 0, "embeddings-every": 0, "validate-every": 0, "epochs": 1}
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    assert run_command(main, arguments) == run_command(main, arguments) == 0
    assert "already has 2 steps; use more --epochs to continue it" in " ".join(capsys.readouterr().out.split())


def test_worker_fails_if_the_chief_could_not_save(corpus, tmp_path, monkeypatch):
    # A worker without a chief stands for one whose chief cannot save; two real processes would take half a minute.
    monkeypatch.setattr(training, "worker_index", lambda _strategy: 1)
    with pytest.raises(ClmrError, match=r"chief could not save the state after step 2; .* No step was saved before\."):
        train(config_of(corpus, tmp_path, steps=3, checkpoint_every=2))
    assert not list(tmp_path.iterdir())


@pytest.mark.soak
def test_worker_stops_at_the_same_steps_as_the_chief(corpus, tmp_path, monkeypatch):
    """Otherwise their collectives would not match, and they would wait for each other forever."""
    stops: dict[int, list[int]] = {0: [], 1: []}
    for index, seen in stops.items():
        monkeypatch.setattr(training, "worker_index", lambda _strategy, index=index: index)
        config = config_of(corpus, tmp_path / str(index), steps=11, log_every=4, steps_per_execution=5)
        # The chief of the worker saves nothing, so the worker ends with an error at the last step.
        with contextlib.suppress(ClmrError):
            train(config, lambda progress, seen=seen: seen.append(progress.step))
    # Multiples of 4, and the end.
    assert stops == {0: [4, 8, 11], 1: [4, 8]}
