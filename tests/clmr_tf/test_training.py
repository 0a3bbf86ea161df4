"""The main job as real processes: killed and resumed, stopped by signals, refused, gone wrong."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.console import run_command
from clmr_tf.model_folder import golden_audio
from clmr_tf.pretrained import read_run_encoder
from clmr_tf.train import main
from tests.synthetic import write_corpus

ROOT = Path(__file__).parents[2]
SETTINGS = ["--width", "0.0625", "--batch-size", "4", "--log-every", "1", "--checkpoint-every", "3"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "melodies"
    return write_corpus(folder, num_songs={"train": 10, "valid": 3}, tag_names=("a", "b"))


def command(corpus, workdir, *arguments: str) -> list[str]:
    return ["--corpus", str(corpus.folder), "--workdir", str(workdir), *SETTINGS, *arguments]


def start(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "clmr_tf.train", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Bit equality holds for the same number of threads.
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )


def finish(process: subprocess.Popen) -> None:
    output = process.communicate()
    assert process.returncode == 0, output


def metrics(workdir: Path) -> list[dict]:
    path = workdir / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{name: value for name, value in row.items() if name != "clips_per_second"} for row in rows]


def wait_for_step(workdir: Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if len(metrics(workdir)) >= step:
                return
        except json.JSONDecodeError:
            pass
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached: {process.communicate()}")


def state(workdir: Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(workdir / "checkpoints"))
    # TensorFlow counts its own saves, of which the killed run has made another number.
    names = [name for name in reader.get_variable_to_shape_map() if "save_counter" not in name]
    return {name: np.asarray(reader.get_tensor(name)) for name in names if not name.startswith("_")}


def test_a_run_killed_at_any_moment_ends_as_if_it_never_was(corpus, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(command(corpus, whole, "--steps", "40")))
    seed = time.time_ns()
    moments = random.Random(seed)
    for least_step in (1, 8, 16):
        process = start(command(corpus, killed, "--steps", "40"))
        wait_for_step(killed, least_step, process)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    finish(start(command(corpus, killed, "--steps", "40")))
    expected, received = state(whole), state(killed)
    # 57 variables of the model, among them 22 running statistics; 72 of Adam; and the step.
    assert expected.keys() == received.keys() and len(expected) == 57 + 72 + 1
    different = [name for name in expected if expected[name].tobytes() != received[name].tobytes()]
    assert different == [], f"the moments were drawn with seed {seed}"
    assert metrics(killed) == metrics(whole)
    assert len(json.loads((killed / "run.json").read_text())["starts"]) == 4


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_so(corpus, tmp_path, number, code):
    process = start(command(corpus, tmp_path / "run", "--steps", "100000", "--checkpoint-every", "100000"))
    wait_for_step(tmp_path / "run", 2, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert "is saved; the same command goes on from there" in errors and "Traceback" not in errors
    step = len(metrics(tmp_path / "run"))
    assert (tmp_path / "run" / "checkpoints" / f"ckpt-{step}.index").exists()
    assert f"after step {step}," in errors


def run(arguments: list[str], capsys) -> tuple[int, str]:
    code = run_command(main, arguments)
    return code, capsys.readouterr().err


def test_a_loss_that_is_not_a_number_stops_the_run_and_is_not_saved(corpus, tmp_path, capsys):
    good = command(corpus, tmp_path / "run", "--optimizer", "sgd", "--learning-rate", "1e25")
    code, errors = run([*good, "--steps", "50", "--checkpoint-every", "1"], capsys)
    assert code == 1
    assert "became nan at step" in errors or "became inf at step" in errors
    assert all(np.isfinite(value).all() for value in state(tmp_path / "run").values() if value.dtype.kind == "f")


def test_a_finished_run_says_so_and_a_longer_one_goes_on(corpus, tmp_path, capsys):
    assert run(command(corpus, tmp_path / "run", "--steps", "2"), capsys)[0] == 0
    assert run_command(main, command(corpus, tmp_path / "run", "--steps", "2")) == 0
    assert "has 2 steps already" in capsys.readouterr().out
    assert run(command(corpus, tmp_path / "run", "--steps", "3"), capsys)[0] == 0
    assert [row["step"] for row in metrics(tmp_path / "run")] == [1, 2, 3]


def test_everything_that_tensorboard_shall_show_is_there(corpus, tmp_path, capsys):
    workdir = tmp_path / "run"
    assert run(command(corpus, workdir, "--steps", "2"), capsys)[0] == 0
    row = metrics(workdir)[-1]
    names = {"loss", "contrastive_accuracy", "learning_rate", "gradient_norm", "embedding_mean", "embedding_spread"}
    assert names <= row.keys() and all(np.isfinite(value) for value in row.values())
    assert row["learning_rate"] == pytest.approx(3e-4)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(workdir / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["tensors"])
    assert {f"training/{name}" for name in names | {"clips_per_second"}} <= tags
    assert {"first_crop/original", "first_crop/view", "second_crop/original", "second_crop/view"} <= tags
    metadata = (workdir / "tensorboard" / "embeddings_metadata.tsv").read_text().splitlines()
    assert metadata[0] == "item\tsong\ttags\tseconds" and len(metadata) == 1 + 3
    assert np.loadtxt(workdir / "tensorboard" / "embeddings.tsv").shape == (3, 512)


def test_the_encoder_of_a_run_is_that_of_its_newest_checkpoint(corpus, tmp_path, capsys):
    assert run(command(corpus, tmp_path / "run", "--steps", "3"), capsys)[0] == 0
    encoder, step = read_run_encoder(tmp_path / "run")
    assert step == 3
    saved = state(tmp_path / "run")
    for variable in encoder.variables:
        name = ".S".join(variable.path.split("/")[-2:])
        np.testing.assert_array_equal(variable.numpy(), saved[f"encoder/{name}/.ATTRIBUTES/VARIABLE_VALUE"])
    assert np.abs(encoder.normalizations[0].moving_mean.numpy()).max() > 0


def test_a_low_precision_run_leaves_a_float32_encoder_and_the_policy_of_the_process(corpus, tmp_path, capsys):
    low = ["--precision", "mixed_bfloat16", "--steps", "1"]
    assert run(command(corpus, tmp_path / "run", *low), capsys)[0] == 0
    assert keras.config.dtype_policy().name == "float32"
    encoder, _ = read_run_encoder(tmp_path / "run")
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        other, _ = read_run_encoder(tmp_path / "run")
    finally:
        keras.config.set_dtype_policy("float32")
    embeddings = [each(golden_audio(59049, 22050), training=False) for each in (encoder, other)]
    assert {embedding.dtype for embedding in embeddings} == {tf.float32}
    np.testing.assert_allclose(*(embedding.numpy() for embedding in embeddings), rtol=1e-5, atol=1e-7)


def test_the_written_configuration_starts_the_same_run(corpus, tmp_path, capsys):
    assert run(command(corpus, tmp_path / "run", "--steps", "2"), capsys)[0] == 0
    config = str(tmp_path / "run" / "config.json")
    assert run(["--config", config, "--workdir", str(tmp_path / "again")], capsys)[0] == 0
    assert metrics(tmp_path / "again") == metrics(tmp_path / "run")


def bad_inputs(tmp_path: Path) -> dict[str, tuple[list[str], str]]:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.wav").write_bytes(b"RIFF")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").write_text("Dear sir")
    corpora = ["--corpora", str(tmp_path / "corpora"), "--workdir", str(tmp_path / "run")]
    return {
        "missing": (["--corpus", str(tmp_path / "nowhere"), *corpora], "no such folder"),
        "empty": (["--corpus", str(tmp_path / "empty"), *corpora], "empty"),
        "file": (["--corpus", str(tmp_path / "file.wav"), *corpora], "is a file"),
        "letters": (["--corpus", str(tmp_path / "letters"), *corpora], "letters"),
    }


@pytest.mark.parametrize("case", ["missing", "empty", "file", "letters"])
def test_a_corpus_that_is_none_is_refused(tmp_path, capsys, case):
    arguments, words = bad_inputs(tmp_path)[case]
    code, errors = run(arguments, capsys)
    assert code == 2 and words in errors and "Traceback" not in errors
    assert errors.strip().count("\n") == 0
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_workdir_that_cannot_be_used_is_refused(corpus, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, errors = run(command(corpus, tmp_path / "file"), capsys)
    assert (code, "cannot be written" in errors) == (2, True)
    assert run(command(corpus, tmp_path / "run", "--steps", "1"), capsys)[0] == 0
    code, errors = run(command(corpus, tmp_path / "run", "--steps", "1", "--seed", "1"), capsys)
    assert (code, "seed 42 -> 1" in errors) == (2, True)


def test_the_advice_of_a_refusal_can_be_followed_in_the_same_workdir(corpus, tmp_path, capsys):
    code, errors = run(command(corpus, tmp_path / "run", "--batch-size", "11"), capsys)
    assert (code, "--batch-size of at most 10" in errors) == (2, True)
    assert not (tmp_path / "run" / "config.json").exists()
    assert run(command(corpus, tmp_path / "run", "--batch-size", "10", "--steps", "1"), capsys)[0] == 0


def test_another_spelling_of_the_corpus_is_the_same_corpus(corpus, tmp_path, capsys, monkeypatch):
    assert run(command(corpus, tmp_path / "run", "--steps", "1"), capsys)[0] == 0
    monkeypatch.chdir(corpus.folder.parent)
    again = ["--corpus", f"./{corpus.folder.name}/", "--workdir", str(tmp_path / "run"), *SETTINGS, "--steps", "2"]
    assert run(again, capsys)[0] == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["corpus"] == str(corpus.folder)


def test_a_shorter_start_of_a_finished_run_changes_nothing(corpus, tmp_path, capsys):
    assert run(command(corpus, tmp_path / "run", "--steps", "2"), capsys)[0] == 0
    before = (tmp_path / "run" / "config.json").read_text()
    assert run(command(corpus, tmp_path / "run", "--steps", "1"), capsys)[0] == 0
    assert (tmp_path / "run" / "config.json").read_text() == before


def test_weights_that_an_update_broke_are_never_saved(corpus, tmp_path, capsys):
    # The loss and the gradient of the only step are those before its update.
    broken = ["--optimizer", "sgd", "--learning-rate", "1e39", "--steps", "1"]
    code, errors = run(command(corpus, tmp_path / "run", *broken), capsys)
    assert (code, "no longer finite at step 1" in errors) == (1, True)
    assert not list((tmp_path / "run" / "checkpoints").glob("ckpt-*"))


def test_sigterm_before_the_first_step_is_said(corpus, tmp_path):
    process = start(command(corpus, tmp_path / "run", "--steps", "100000"))
    while not (tmp_path / "run" / ".lock").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143
    assert errors.splitlines()[-1] == "error: Terminated." and "Traceback" not in errors


def test_without_embeddings_no_projector_is_written(corpus, tmp_path, capsys):
    assert run(command(corpus, tmp_path / "run", "--steps", "1", "--embeddings-every", "0"), capsys)[0] == 0
    assert not (tmp_path / "run" / "tensorboard" / "embeddings.tsv").exists()


def test_a_corpus_of_another_rate_or_kind_is_refused(corpus, tmp_path, capsys):
    code, errors = run(command(corpus, tmp_path / "run", "--sample-rate-hz", "16000"), capsys)
    assert (code, "--sample-rate-hz 22050" in errors) == (2, True)
    code, errors = run(command(corpus, tmp_path / "other", "--reader", "direct"), capsys)
    assert (code, "--reader prepared" in errors) == (2, True)
