"""Starts training runs for the tests and reads their results."""

import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from clmr_tf.train.checkpoints import checkpoint_path, list_checkpoints
from tests.strict_python import STRICT_PYTHON

ROOT = Path(__file__).parents[3]
# Noise is random and cheap; the full chain takes most of the time until the first step.
SETTINGS = ["--width", "0.0625", "--batch-size", "4", "--log-every", "1", "--checkpoint-every", "3"]
SETTINGS += ["--augmentation", "only-noise", "--num-validation-pairs", "8", "--validate-every", "0"]
SETTINGS += ["--embeddings-every", "0", "--num-audio-examples", "0"]
# Tracing takes most of the start; the small network halves it.
TINY_TRAIN = [*STRICT_PYTHON, "-m", "tests.tiny_command", "clmr_tf.train"]
# Only a process that hangs takes this long, even on a busy machine.
PATIENCE_SECONDS = 600


def words_of(settings: dict) -> list[str]:
    """Converts settings, named as in `TrainConfig`, to command-line options."""
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def command(corpus, workdir, *arguments: str) -> list[str]:
    return ["--corpus", str(corpus.folder), "--workdir", str(workdir), *SETTINGS, *arguments]


def start(arguments: list[str], **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [*TINY_TRAIN, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Results are bit-identical only for the same number of threads.
        env={**os.environ, "OMP_NUM_THREADS": "2", **environment},
    )


def finish(process: subprocess.Popen) -> None:
    output = process.communicate()
    assert process.returncode == 0, output


def wait_for(condition, process: subprocess.Popen) -> None:
    """Waits until `condition()` holds while the process runs; ignores files that are being written."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if condition():
                return
        except json.JSONDecodeError:
            pass
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"the run ended or hung too early: {process.communicate()}")


def metrics(workdir: Path) -> list[dict]:
    path = workdir / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{name: value for name, value in row.items() if name != "clips_per_second"} for row in rows]


def starts(workdir: Path) -> list[dict]:
    path = workdir / "run.json"
    return json.loads(path.read_text())["starts"] if path.exists() else []


def state(workdir: Path, folder: str = "checkpoints", step: int | None = None) -> dict[str, np.ndarray]:
    """Returns all variables of the newest checkpoint in a folder, or of that of a step, by name."""
    path = list_checkpoints(workdir / folder)[0] if step is None else checkpoint_path(workdir / folder, step)
    reader = tf.train.load_checkpoint(str(path / "state"))
    names = [name for name in reader.get_variable_to_shape_map() if not name.startswith("_")]
    return {name: np.asarray(reader.get_tensor(name)) for name in names}
