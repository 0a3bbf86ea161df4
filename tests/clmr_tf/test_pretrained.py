"""Which weights of a run become its encoder."""

import json

import numpy as np
import pytest

from clmr_tf.config import TrainConfig
from clmr_tf.errors import UsageError
from clmr_tf.pretrained import read_run_encoder
from clmr_tf.training import train
from tests.clmr_tf.training_runs import state
from tests.synthetic import write_corpus

MOMENTUM = 0.75


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs that are the same but for their length, with a running average."""
    folder = tmp_path_factory.mktemp("pretrained")
    corpus = write_corpus(folder / "melodies", num_songs={"train": 4, "valid": 2}, tag_names=("a", "b"))
    for steps in (1, 2, 3):
        train(
            TrainConfig(
                corpus=str(corpus.folder),
                workdir=folder / str(steps),
                width=0.0625,
                batch_size=4,
                steps=steps,
                ema_momentum=MOMENTUM,
                # So high that the first validation is the best.
                learning_rate=0.1,
                validate_every=1,
                embeddings_every=0,
                num_audio_examples=0,
            )
        )
    return folder


def saved(folder, name: str) -> np.ndarray:
    [value] = [value for key, value in state(folder).items() if key.startswith(name.replace("@", ".S"))]
    return value


def test_the_encoder_of_a_run_with_a_running_average_is_the_average(runs):
    kernel = "block_3_convolution@kernel"
    # After the first step the average is a quarter of the way from the start to the weights.
    weights = [saved(runs / str(steps), f"encoder/{kernel}") for steps in (1, 2, 3)]
    averages = [saved(runs / str(steps), f"encoder_average/{kernel}") for steps in (1, 2, 3)]
    for step in (1, 2):
        expected = MOMENTUM * averages[step - 1] + (1 - MOMENTUM) * weights[step]
        np.testing.assert_allclose(averages[step], expected, rtol=1e-5, atol=1e-7)
    encoder, step = read_run_encoder(runs / "3")
    assert step == 3
    np.testing.assert_array_equal(encoder.convolutions[4].kernel.numpy(), averages[2])
    assert np.abs(averages[2] - weights[2]).max() > 0.01
    statistics = saved(runs / "3", "encoder/block_3_normalization@moving_mean")
    np.testing.assert_array_equal(encoder.normalizations[4].moving_mean.numpy(), statistics)


def test_the_best_checkpoint_is_the_one_that_validated_best(runs):
    rows = [json.loads(line) for line in (runs / "3" / "metrics.jsonl").read_text().splitlines()]
    best = min(rows, key=lambda row: row["validation_loss"])["step"]
    encoder, step = read_run_encoder(runs / "3", best=True)
    assert step == best
    kernel = saved(runs / str(best), "encoder_average/block_3_convolution@kernel")
    np.testing.assert_array_equal(encoder.convolutions[4].kernel.numpy(), kernel)


def test_a_run_without_validation_has_no_best_checkpoint(runs, tmp_path):
    corpus = str(runs / "melodies")
    settings = {"width": 0.0625, "batch_size": 4, "steps": 1, "validate_every": 0, "embeddings_every": 0}
    train(TrainConfig(corpus=corpus, workdir=tmp_path / "run", num_audio_examples=0, **settings))
    with pytest.raises(UsageError, match="no best checkpoint"):
        read_run_encoder(tmp_path / "run", best=True)
