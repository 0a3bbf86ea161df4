"""Which weights of a run are read as its encoder."""

import json

import numpy as np
import pytest

from clmr_tf.config.train import TrainConfig
from clmr_tf.errors import UsageError
from clmr_tf.train.build import build_model
from clmr_tf.train.run import train
from clmr_tf.train.run_folder import read_config, read_run_encoder
from clmr_tf.train.validation import build_validation
from tests.clmr_tf.train.training_runs import state
from tests.synthetic import synthetic_corpus

pytestmark = pytest.mark.usefixtures("tiny_network")

MOMENTUM = 0.75


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "melodies"
    return synthetic_corpus(folder, num_songs={"train": 4, "valid": 2}, num_samples=60_000, tag_names=("a", "b"))


def config_of(corpus, workdir, **settings) -> TrainConfig:
    quick = {"width": 0.0625, "batch_size": 4, "augmentation": "none", "num_audio_examples": 0, "embeddings_every": 0}
    quick |= {"num_validation_pairs": 4}
    return TrainConfig(corpus=str(corpus.folder), workdir=workdir, **quick, **settings)


@pytest.fixture(scope="module")
def averaged(corpus, tmp_path_factory, tiny_network):
    """Trains three steps with a running average and a checkpoint at each step."""
    workdir = tmp_path_factory.mktemp("runs") / "averaged"
    # The warm-up leaves the weights unchanged at step 1; later the rate is so high that the last step is not the best.
    rates = {"learning_rate": 0.1, "warmup_steps": 1, "ema_momentum": MOMENTUM}
    train(config_of(corpus, workdir, steps=3, checkpoint_every=1, validate_every=1, log_every=1, **rates))
    return workdir


def saved(workdir, step: int, name: str) -> np.ndarray:
    [value] = [value for key, value in state(workdir, step=step).items() if key.startswith(name.replace("@", ".S"))]
    return value


def test_encoder_of_a_run_with_ema_has_the_averaged_weights(averaged):
    kernel = "block_1_convolution@kernel"
    # Each average moves a quarter of the way to the current weights.
    weights = [saved(averaged, step, f"encoder/{kernel}") for step in (1, 2, 3)]
    averages = [saved(averaged, step, f"encoder_average/{kernel}") for step in (1, 2, 3)]
    for step in (1, 2):
        expected = MOMENTUM * averages[step - 1] + (1 - MOMENTUM) * weights[step]
        np.testing.assert_allclose(averages[step], expected, rtol=1e-5, atol=1e-7)
    encoder, step = read_run_encoder(averaged)
    assert step == 3
    np.testing.assert_array_equal(encoder.convolutions[2].kernel.numpy(), averages[2])
    assert np.abs(averages[2] - weights[2]).max() > 0.01
    statistics = saved(averaged, 3, "encoder/block_1_normalization@moving_mean")
    np.testing.assert_array_equal(encoder.normalizations[2].moving_mean.numpy(), statistics)


def test_averaged_weights_are_validated(corpus, averaged):
    rows = [json.loads(line) for line in (averaged / "metrics.jsonl").read_text().splitlines()]
    config = read_config(averaged)
    model = build_model(config)
    validate = build_validation(model, corpus, config)
    losses = []
    for kind in ("_average", ""):
        for part_name, part in model.parts.items():
            for variable in part.variables:
                name = f"{part_name}{kind if variable.trainable else ''}/{'@'.join(variable.path.split('/')[-2:])}"
                variable.assign(saved(averaged, 3, name))
        losses.append(validate()["validation/loss"])
    assert rows[2]["validation_loss"] == losses[0] != losses[1]
    reason = json.loads(next((averaged / "best").glob("step-*/best.json")).read_text())
    assert reason["measured_on"]["weights"] == "averages"


def test_best_encoder_is_the_one_with_the_lowest_validation_loss(averaged):
    rows = [json.loads(line) for line in (averaged / "metrics.jsonl").read_text().splitlines()]
    best = min(rows, key=lambda row: row["validation_loss"])["step"]
    encoder, step = read_run_encoder(averaged, best=True)
    assert step == best < 3
    kernel = saved(averaged, best, "encoder_average/block_1_convolution@kernel")
    np.testing.assert_array_equal(encoder.convolutions[2].kernel.numpy(), kernel)


@pytest.mark.soak
def test_run_without_validation_has_no_best_checkpoint(corpus, tmp_path):
    train(config_of(corpus, tmp_path / "run", steps=1, validate_every=0))
    with pytest.raises(UsageError, match="no best checkpoint"):
        read_run_encoder(tmp_path / "run", best=True)
