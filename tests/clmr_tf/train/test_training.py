"""The training command: its outputs, what it rejects and how it fails."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from clmr_tf import hardware
from clmr_tf.console import run_command
from clmr_tf.export.writing import golden_audio
from clmr_tf.train.__main__ import main
from clmr_tf.train.run_folder import read_run_encoder
from clmr_tf.train.step import ContrastiveModel
from tests.clmr_tf.train.training_runs import SETTINGS, command, metrics, state
from tests.synthetic import synthetic_corpus
from tests.tiny_network import CLIP_NUM_SAMPLES

pytestmark = pytest.mark.usefixtures("tiny_network")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "melodies"
    return synthetic_corpus(folder, num_songs={"train": 10, "valid": 3}, num_samples=2_000, tag_names=("a", "b"))


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """The folder of a run of two steps, read-only."""
    workdir = tmp_path_factory.mktemp("runs") / "trained"
    everything = ["--embeddings-every", "2", "--num-audio-examples", "1"]
    assert run_command(main, command(corpus, workdir, "--steps", "2", *everything)) == 0
    return workdir


@pytest.fixture
def workdir(trained, tmp_path):
    """A copy of that folder to continue in."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def run(arguments: list[str], capsys) -> tuple[int, str]:
    code = run_command(main, arguments)
    return code, capsys.readouterr().err


def test_training_logs_its_devices_and_warns_about_an_unused_gpu(corpus, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("clmr_tf.train.distribution.num_usable_cores", lambda: 7)
    # As if the machine had a GPU that TensorFlow does not find.
    monkeypatch.setattr(hardware, "_DEVICE_FOLDER", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "nvidia0").touch()
    assert run_command(main, command(corpus, tmp_path / "run", "--steps", "1")) == 0
    assert caplog.messages.count("Training on 7 CPU cores.") == 1
    ours = [record for record in caplog.records if record.name.startswith("clmr_tf")]
    (warning,) = [record for record in ours if record.levelname == "WARNING"]
    assert warning.getMessage().startswith("This machine has an NVIDIA GPU that TensorFlow")


@pytest.mark.soak
def test_out_of_memory_error_advises_smaller_settings(corpus, tmp_path, capsys, monkeypatch):
    def take_too_much(self, batch):
        metrics = train_step(self, batch)
        # More bytes than any machine can address.
        return {**metrics, "loss": tf.reduce_max(tf.fill([2**59], metrics["loss"]))}

    train_step = ContrastiveModel.train_step
    monkeypatch.setattr(ContrastiveModel, "train_step", take_too_much)
    code, errors = run(command(corpus, tmp_path / "run", "--augmentation", "none"), capsys)
    assert code == 1
    assert "error: Step 1 ran out of memory." in errors and "smaller --batch-size or --width" in errors
    assert "prepare it again" not in errors and "Traceback" not in errors


def test_defaults_on_one_device_are_single_strategy_and_contrastive(corpus, trained, tmp_path, capsys):
    assert json.loads((trained / "config.json").read_text())["strategy"] == "auto"
    options = ["--strategy", "single", "--objective", "contrastive", "--steps", "2"]
    assert run(command(corpus, tmp_path / "single", *options), capsys)[0] == 0
    assert len(metrics(trained)) == 2 and metrics(trained) == metrics(tmp_path / "single")
    assert (trained / "tensorboard" / "embeddings.tsv").exists()
    assert not (tmp_path / "single" / "tensorboard" / "embeddings.tsv").exists()


def test_finished_run_is_reported_and_can_be_extended(corpus, workdir, capsys):
    assert run_command(main, command(corpus, workdir, "--steps", "2")) == 0
    assert "already has 2 steps" in capsys.readouterr().out
    assert run(command(corpus, workdir, "--steps", "3"), capsys)[0] == 0
    assert [row["step"] for row in metrics(workdir)] == [1, 2, 3]


def test_tensorboard_has_scalars_audio_and_embeddings(trained):
    row = metrics(trained)[-1]
    names = {"loss", "contrastive_accuracy", "learning_rate", "gradient_norm", "embedding_mean", "embedding_std"}
    assert names <= row.keys() and all(np.isfinite(value) for value in row.values())
    assert row["learning_rate"] == pytest.approx(3e-4)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["tensors"])
    assert {f"training/{name}" for name in names | {"clips_per_second"}} <= tags
    assert {"first_crop/original", "first_crop/view", "second_crop/original", "second_crop/view"} <= tags
    metadata = (trained / "tensorboard" / "embeddings_metadata.tsv").read_text().splitlines()
    assert metadata[0] == "item\tsong\ttags\tseconds" and len(metadata) == 1 + 3 * (2_010 // CLIP_NUM_SAMPLES)
    assert np.loadtxt(trained / "tensorboard" / "embeddings.tsv").shape == (3 * (2_010 // CLIP_NUM_SAMPLES), 512)


def test_run_encoder_has_the_weights_of_the_newest_checkpoint(trained):
    encoder, step = read_run_encoder(trained)
    assert step == 2
    saved = state(trained)
    for variable in encoder.variables:
        name = ".S".join(variable.path.split("/")[-2:])
        np.testing.assert_array_equal(variable.numpy(), saved[f"encoder/{name}/.ATTRIBUTES/VARIABLE_VALUE"])
    assert np.abs(encoder.normalizations[0].moving_mean.numpy()).max() > 0


@pytest.mark.soak
def test_low_precision_run_gives_a_float32_encoder_and_keeps_the_policy(corpus, tmp_path, capsys):
    low = ["--precision", "mixed_bfloat16", "--steps", "1"]
    assert run(command(corpus, tmp_path / "run", *low), capsys)[0] == 0
    assert keras.config.dtype_policy().name == "float32"
    encoder, _ = read_run_encoder(tmp_path / "run")
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        other, _ = read_run_encoder(tmp_path / "run")
    finally:
        keras.config.set_dtype_policy("float32")
    embeddings = [each(golden_audio(CLIP_NUM_SAMPLES, 22050), training=False) for each in (encoder, other)]
    assert {embedding.dtype for embedding in embeddings} == {tf.float32}
    np.testing.assert_allclose(*(embedding.numpy() for embedding in embeddings), rtol=1e-5, atol=1e-7)


@pytest.mark.soak
def test_written_configuration_reproduces_the_run(trained, tmp_path, capsys):
    config = str(trained / "config.json")
    assert run(["--config", config, "--workdir", str(tmp_path / "again")], capsys)[0] == 0
    assert metrics(tmp_path / "again") == metrics(trained)


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
def test_invalid_corpus_is_rejected(tmp_path, capsys, case):
    arguments, words = bad_inputs(tmp_path)[case]
    code, errors = run(arguments, capsys)
    assert code == 2 and words in errors and "Traceback" not in errors
    assert errors.strip().count("\n") == 0
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_unusable_workdir_is_rejected(corpus, workdir, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, errors = run(command(corpus, tmp_path / "file"), capsys)
    assert (code, "cannot be written" in errors) == (2, True)
    code, errors = run(command(corpus, workdir, "--steps", "2", "--seed", "1"), capsys)
    assert (code, "seed 42 -> 1" in errors) == (2, True)


def test_advice_of_an_error_works_in_the_same_workdir(corpus, tmp_path, capsys):
    code, errors = run(command(corpus, tmp_path / "run", "--batch-size", "11"), capsys)
    assert (code, "--batch-size of at most 10" in errors) == (2, True)
    assert not (tmp_path / "run" / "config.json").exists()
    assert run(command(corpus, tmp_path / "run", "--batch-size", "10", "--steps", "1"), capsys)[0] == 0


@pytest.mark.soak
def test_relative_path_names_the_same_corpus(corpus, workdir, capsys, monkeypatch):
    monkeypatch.chdir(corpus.folder.parent)
    again = ["--corpus", f"./{corpus.folder.name}/", "--workdir", str(workdir), *SETTINGS, "--steps", "3"]
    assert run(again, capsys)[0] == 0
    config = json.loads((workdir / "config.json").read_text())
    assert (config["corpus"], config["steps"]) == (str(corpus.folder), 3)


def test_fewer_steps_do_not_change_a_finished_run(corpus, workdir, capsys):
    before = (workdir / "config.json").read_text()
    assert run(command(corpus, workdir, "--steps", "1"), capsys)[0] == 0
    assert (workdir / "config.json").read_text() == before


def test_nonfinite_weights_after_the_last_update_are_not_saved(corpus, tmp_path, capsys):
    # The loss and gradient of the only step are computed before its update.
    broken = ["--optimizer", "sgd", "--learning-rate", "1e39", "--steps", "1"]
    code, errors = run(command(corpus, tmp_path / "run", *broken), capsys)
    assert (code, "no longer finite at step 1" in errors) == (1, True)
    assert not list((tmp_path / "run" / "checkpoints").glob("step-*"))
    # As after a non-finite loss, the report has the items of the batch and the current weights.
    folder = tmp_path / "run" / "nonfinite" / "step-1"
    assert f"The items of its batch and the weights after it are in {folder}." in " ".join(errors.split())
    report = json.loads((folder / "report.json").read_text())
    assert report["checked_steps"] == [1, 1] and len(set(report["items"])) == 4
    kept = state(folder)
    assert not all(np.isfinite(value).all() for value in kept.values() if value.dtype.kind == "f")


def test_corpus_of_another_sample_rate_or_reader_is_rejected(corpus, tmp_path, capsys):
    code, errors = run(command(corpus, tmp_path / "run", "--sample-rate-hz", "16000"), capsys)
    assert (code, "--sample-rate-hz 22050" in errors) == (2, True)
    code, errors = run(command(corpus, tmp_path / "other", "--reader", "direct"), capsys)
    assert (code, "--reader prepared" in errors) == (2, True)
