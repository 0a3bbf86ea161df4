"""Recipes from beginning to end with real trainings, exports and probes, made small, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clmr_tf.recipes.__main__ import main
from tests.clmr_tf.recipes.prepared import prepare_corpora

ROOT = Path(__file__).parents[3]
SMALL = ["width=0.0625", "batch_size=4", "log_every=1", "embeddings_every=0", "num_audio_examples=0"]
# One augmentation: building the graph of all of them takes most of the time of a start.
CONTRASTIVE = [*SMALL, "validate_every=0", "warmup_steps=0", "augmentation=only-noise"]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The current folder, with corpora."""
    (tmp_path / "corpora").mkdir()
    prepare_corpora(tmp_path / "corpora")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    return tmp_path


def run(capfd, *arguments: str) -> tuple[str, list[str]]:
    """The comparison that a recipe prints, and the modules of the commands that it ran."""
    capfd.readouterr()
    main(["run", *arguments])
    output, notes = capfd.readouterr()
    return output, [line.split()[3] for line in notes.splitlines() if line.startswith("$ python -m ")]


@pytest.mark.soak
def test_a_stopped_transfer_resumes_and_is_compared(home, capfd):
    changes = ["--train-changes", *CONTRASTIVE]
    folder, model = home / "runs" / "msd-clmr", home / "savedmodels" / "msd-clmr"
    rows = folder / "metrics.jsonl"
    command = [sys.executable, "-m", "clmr_tf.recipes", "run", "transfer-msd", *changes, "steps=100000"]
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (rows.exists() and rows.read_text().count("\n") > 2):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, notes = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM and output == ""
    assert "`python -m clmr_tf.train` ended with exit code 143" in notes
    num_steps = json.loads(rows.read_text().splitlines()[-1])["step"]
    assert (folder / "checkpoints" / f"step-{num_steps:09d}").is_dir() and not model.exists()

    changes.append(f"steps={num_steps + 1}")
    output, modules = run(capfd, "transfer-msd", *changes)
    assert modules == ["clmr_tf.train", "clmr_tf.export", "clmr_tf.probe"]
    record = json.loads((folder / "run.json").read_text())
    assert [start["first_step"] for start in record["starts"]] == [0, num_steps]
    result = json.loads((model / "evaluation-transfer-msd-1.json").read_text())
    assert (record["corpus"]["name"], result["corpus"]["name"]) == ("msd-lee2017", "magnatagatune-pons2017")
    assert (result["preset"], result["features"]["training_step"]) == ("thesis", num_steps + 1)
    for metric, published in (("roc_auc", 86.57), ("average_precision", 32.04)):
        measured = 100 * result["scores"]["test"][metric]["over_tags"]["mean"]
        (line,) = [line for line in output.splitlines() if str(published) in line]
        assert f"{measured:.2f}" in line and f"{measured - published:+.2f}" in line
    assert "Changed: width=0.0625, batch_size=4" in output

    # Another row of the same encoder: the training has nothing left to do, and only the probe is new.
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("checkpoints/*/*")}
    output, modules = run(capfd, "msd-clmr", *changes)
    assert modules == ["clmr_tf.train", "clmr_tf.probe"] and "24.98" in output
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("checkpoints/*/*")} == written


@pytest.mark.soak
def test_a_supervised_row_is_scored_by_the_best_checkpoint_of_its_own_classifier(home, capfd):
    changes = ["--train-changes", *SMALL, "epochs=2", "validate_every=1", "num_validation_pairs=4"]
    output, modules = run(capfd, "labels-mtt-supervised-50", *changes)
    assert modules == ["clmr_tf.train", "clmr_tf.export", "clmr_tf.probe"]
    folder, model = (home / place / "labels-mtt-supervised-50" for place in ("runs", "savedmodels"))
    # Three combinations of tags with 4 clips each, of which half are used.
    assert json.loads((folder / "run.json").read_text())["labels"]["selection"]["num_clips"] == 6
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = min(rows, key=lambda row: row["validation_loss"])
    result = json.loads((model / "evaluation-labels-mtt-supervised-50-1.json").read_text())
    assert len(rows) == 3 and result["features"]["training_step"] == best["step"]
    assert (result["preset"], result["protocol"]["averaged"]) == ("released", "probabilities")
    measured = 100 * result["scores"]["test"]["average_precision"]["over_tags"]["mean"]
    (line,) = [line for line in output.splitlines() if "33.54" in line]
    assert f"{measured:.2f}" in line

    again, modules = run(capfd, "labels-mtt-supervised-50", *changes)
    assert modules == ["clmr_tf.train"] and again == output
