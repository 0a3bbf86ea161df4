"""Compares runs that must be the same training on any devices."""

from pathlib import Path

import numpy as np

from clmr_tf.config.train import TrainConfig
from tests.clmr_tf.train.training_runs import metrics, state, words_of

NUM_STEPS = 8
# In float32 the rounding of a sum moves activations across the kinks of ReLU and maximum, and the gradient with them
# by up to a few percent; in float64 any difference is a bug. Clipping and Adam would hide a constant factor.
PLAIN = {"optimizer": "sgd", "learning_rate": 0.05}
EVERYTHING = {
    "optimizer": "adam",
    "steps_per_execution": 4,
    # Shorter intervals would end an execution early.
    "log_every": 4,
    "checkpoint_every": 4,
    "micro_batches": 2,
    "clip_norm": 0.5,
    "ema_momentum": 0.9,
}
_SHARED = {
    "width": 0.0625,
    "batch_size": 8,
    "precision": "float64",
    "steps": NUM_STEPS,
    "log_every": 1,
    "validate_every": 0,
    "embeddings_every": 0,
    "num_audio_examples": 0,
}


def config_of(corpus, workdir: Path, **settings) -> TrainConfig:
    return TrainConfig(corpus=str(corpus.folder), workdir=workdir, **{**_SHARED, **settings})


def options_of(corpus, workdir: Path, **settings) -> list[str]:
    """Returns the same settings as command-line options."""
    return words_of({"corpus": corpus.folder, "workdir": workdir, **_SHARED, **settings})


def assert_same_training(expected: Path, received: Path, rtol: float) -> None:
    """Compares the rows of metrics.jsonl and every variable of the newest checkpoint."""
    expected_rows, rows = metrics(expected), metrics(received)
    assert [row["step"] for row in rows] == [row["step"] for row in expected_rows]
    for row, expected_row in zip(rows, expected_rows, strict=True):
        assert {"loss", "contrastive_accuracy", "gradient_norm"} < row.keys() == expected_row.keys()
        for name, value in expected_row.items():
            np.testing.assert_allclose(row[name], value, rtol=rtol, atol=1e-7, err_msg=f"{name}, step {row['step']}")
    variables, expected_variables = state(received), state(expected)
    assert variables.keys() == expected_variables.keys()
    for name, value in expected_variables.items():
        # For weights near zero the tolerance is relative to the largest weight.
        atol = 1e-3 * rtol * np.abs(value).max()
        np.testing.assert_allclose(variables[name], value, rtol=rtol, atol=atol, err_msg=name)
