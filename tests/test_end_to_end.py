"""The commands as a user types them, one after the other, on real files; those of `make train` as real processes."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import clmr_tf
from clmr_tf.console import run_command
from clmr_tf.train import __main__ as train
from tests.strict_python import STRICT_PYTHON
from tests.synthetic import write_music
from tests.tiny_network import use_tiny_network

pytestmark = pytest.mark.starts_first

ROOT = Path(__file__).parents[1]
TINY = ["--width", "0.0625", "--batch-size", "4", "--steps", "2", "--log-every", "1", "--num-validation-pairs", "4"]
# Tracing all augmentations would take most of the time until the first step.
QUICK = [*TINY, "--augmentation", "only-noise"]


def run(folder: Path, module: str, *arguments: str) -> str:
    """Runs `python -m module` in `folder` and returns what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*STRICT_PYTHON, "-m", module, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with music in the subfolders train, valid and test."""
    folder = tmp_path_factory.mktemp("home")
    for split, count in (("train", 6), ("valid", 3), ("test", 3)):
        write_music(folder / "Music" / split, count)
    (folder / "Music" / "test" / "cover.jpg").write_bytes(b"\xff\xd8\xff\xe0 not really")
    return folder


def test_folder_of_music_becomes_embeddings(home, monkeypatch):
    text = run(home, "clmr_tf.train", "--corpus", "Music", "--workdir", "runs/mine", *QUICK)
    monkeypatch.chdir(home)
    assert "Trained to step 2 in runs/mine" in text and "tensorboard --logdir runs/mine" in text
    (manifest,) = home.glob("corpora/*/manifest.json")
    assert json.loads(manifest.read_text())["num_items"] == {"train": 6, "valid": 3, "test": 3}
    embedding = clmr_tf.load_encoder("runs/mine").embed("Music/train/song 3.mp3")
    assert embedding.vectors.shape == (1, 512) and embedding.vectors.std() > 0
    assert embedding.times_seconds.tolist() == [0.0]


@pytest.mark.soak
def test_direct_reader_trains_from_compressed_files(home, monkeypatch):
    pytest.importorskip("tensorflow_io", reason="the direct reader needs tensorflow-io")
    monkeypatch.chdir(home)
    use_tiny_network(monkeypatch)
    options = ["--corpus", "Music", "--workdir", "runs/direct", "--reader", "direct"]
    # Otherwise each of thousands of short windows would be decoded from its file.
    options += ["--embeddings-every", "0", "--num-audio-examples", "0"]
    assert run_command(train.main, [*options, *QUICK]) == 0
    (folder,) = home.glob("corpora/*-direct")
    assert not (folder / "audio.pcm").exists()
    losses = [json.loads(line)["loss"] for line in (home / "runs/direct/metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 2 and np.isfinite(losses).all()


@pytest.mark.soak
def test_the_commands_of_make_train_probe_the_demo_model(home):
    run(home, "clmr_tf.train", *QUICK, "--embeddings-every", "0", "--num-audio-examples", "0")
    run(home, "clmr_tf.export")
    text = run(home, "clmr_tf.probe", "--model", "savedmodels/demo")
    assert "Minus untrained features, accuracy" in text
    test = json.loads((home / "savedmodels/demo/evaluation-demo-standard-linear.json").read_text())["scores"]["test"]
    assert (test["num_songs"], test["num_clips"], test["num_windows"]) == (22, 22, 242)
    # Eleven classes have two test recordings each, so guessing one class is right for two.
    low, high = test["accuracy"]["interval"]
    assert test["accuracy"]["mean"] > 2 / 22 and low <= test["accuracy"]["mean"] <= high
    shutil.rmtree(home / "corpora" / "demo")
