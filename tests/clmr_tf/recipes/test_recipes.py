"""Recipes from beginning to end: real trainings, exports and probes, made small, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.clmr_tf.recipes.prepared import prepare_corpora

ROOT = Path(__file__).parents[3]
SMALL = ["width=0.0625", "batch_size=4", "steps=2", "log_every=1", "embeddings_every=0", "num_audio_examples=0"]
# One augmentation: the graph of all of them takes most of a start.
CONTRASTIVE = [*SMALL, "validate_every=0", "warmup_steps=0", "augmentation=only-noise"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    (folder / "corpora").mkdir()
    prepare_corpora(folder / "corpora")
    return folder


def start(home: Path, *arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-m", "clmr_tf.recipes", *arguments]
    return subprocess.Popen(
        command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(home: Path, *arguments: str) -> tuple[str, list[str]]:
    """What the command prints, and the modules of the commands that it ran."""
    process = start(home, "run", *arguments)
    output, notes = process.communicate()
    assert process.returncode == 0, notes
    lines = [line.split() for line in notes.splitlines() if line.startswith("$ python -m ")]
    return output, [line[3] for line in lines]


def written_in(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_transfer_is_stopped_goes_on_and_is_done_once(home):
    changes = ["--train-changes", *CONTRASTIVE]
    folder, model = home / "runs" / "msd-clmr", home / "savedmodels" / "msd-clmr"
    rows = folder / "metrics.jsonl"
    process = start(home, "run", "transfer-msd", *changes, "steps=100000")
    deadline = time.monotonic() + 300
    while not (rows.exists() and rows.read_text().count("\n") > 2):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, notes = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM and output == ""
    assert "which is saved; the same command goes on" in notes
    assert "`python -m clmr_tf.train` has ended with exit code 143" in notes
    num_steps = json.loads(rows.read_text().splitlines()[-1])["step"]
    assert (folder / "checkpoints" / f"step-{num_steps:09d}").is_dir() and not model.exists()

    # As many steps as it has by now, and one.
    changes.append(f"steps={num_steps + 1}")
    output, modules = run(home, "transfer-msd", *changes)
    assert modules == ["clmr_tf.train", "clmr_tf.export", "clmr_tf.probe"]
    record = json.loads((folder / "run.json").read_text())
    assert [start["first_step"] for start in record["starts"]] == [0, num_steps]
    config = json.loads((folder / "config.json").read_text())
    assert (config["optimizer"], config["batch_size"]) == ("adam", 4)
    result = json.loads((model / "evaluation-transfer-msd-1.json").read_text())
    assert (record["corpus"]["name"], result["corpus"]["name"]) == ("msd-lee2017", "magnatagatune-pons2017")
    assert (result["preset"], result["features"]["training_step"]) == ("thesis", num_steps + 1)
    for metric, published in (("roc_auc", 86.57), ("average_precision", 32.04)):
        measured = 100 * result["scores"]["test"][metric]["over_tags"]["mean"]
        (line,) = [line for line in output.splitlines() if str(published) in line]
        assert f"{measured:.2f}" in line and f"{measured - published:+.2f}" in line
    assert "Changed: width=0.0625, batch_size=4" in output

    before = written_in(home / "runs") | written_in(home / "savedmodels")
    again, modules = run(home, "transfer-msd", *changes)
    assert modules == [] and again == output
    assert written_in(home / "runs") | written_in(home / "savedmodels") == before
    # Another row of the same encoder only scores it.
    output, modules = run(home, "msd-clmr", *changes)
    assert modules == ["clmr_tf.probe"] and "24.98" in output
    assert json.loads((model / "evaluation-msd-clmr-1.json").read_text())["corpus"]["name"] == "msd-lee2017"


@pytest.mark.soak
def test_a_supervised_row_is_scored_by_the_best_checkpoint_of_its_own_classifier(home):
    small = [change for change in SMALL if not change.startswith("steps")]
    changes = ["--train-changes", *small, "epochs=2", "validate_every=1", "num_validation_pairs=4"]
    output, modules = run(home, "labels-mtt-supervised-50", *changes)
    assert modules == ["clmr_tf.train", "clmr_tf.export", "clmr_tf.probe"]
    folder, model = (home / place / "labels-mtt-supervised-50" for place in ("runs", "savedmodels"))
    # Three combinations of tags, of each the half of 4 clips.
    assert json.loads((folder / "run.json").read_text())["labels"]["chosen"]["num_clips"] == 6
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = min(rows, key=lambda row: row["validation_loss"])
    result = json.loads((model / "evaluation-labels-mtt-supervised-50-1.json").read_text())
    assert len(rows) == 3 and result["features"]["training_step"] == best["step"]
    assert (result["preset"], result["protocol"]["averaged"]) == ("released", "probabilities")
    measured = 100 * result["scores"]["test"]["average_precision"]["over_tags"]["mean"]
    (line,) = [line for line in output.splitlines() if "33.54" in line]
    assert f"{measured:.2f}" in line

    # Only the training itself can tell whether it has ended early; nothing else is done again.
    before = written_in(model)
    again, modules = run(home, "labels-mtt-supervised-50", *changes)
    assert modules == ["clmr_tf.train"] and again == output
    assert written_in(model) == before and len((folder / "metrics.jsonl").read_text().splitlines()) == 3
