"""A run with another encoder: its folder, resuming, the encoder that is read from it, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest

from clmr_tf.config.train import TrainConfig
from clmr_tf.errors import UsageError
from clmr_tf.inference.encoder import load_encoder
from clmr_tf.models.encoders import encoder_name
from clmr_tf.train.run import train
from tests.clmr_tf.train.training_runs import metrics, state
from tests.synthetic import melody, synthetic_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "melodies"
    return synthetic_corpus(folder, num_songs={"train": 4, "valid": 2}, num_samples=60_000)


def config_of(corpus, workdir, encoder: str, steps: int) -> TrainConfig:
    quick = {"width": 0.0625, "batch_size": 4, "augmentation": "none", "num_audio_examples": 0, "embeddings_every": 0}
    quick |= {"validate_every": 0, "log_every": 1}
    return TrainConfig(corpus=str(corpus.folder), workdir=workdir, encoder=encoder, steps=steps, **quick)


@pytest.mark.parametrize("encoder", ["mel_cnn", pytest.param("tune", marks=pytest.mark.soak)])
def test_a_run_resumes_with_its_encoder_and_is_read_as_one(corpus, tmp_path, encoder):
    config = config_of(corpus, tmp_path / "run", encoder, 1)
    train(config)
    train(dataclasses.replace(config, steps=2))
    rows = metrics(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2] and all(0 < row["loss"] < 3 for row in rows)
    assert all(row["gradient_norm"] > 0 and row["embedding_std"] > 0 for row in rows)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["encoder"] == encoder
    # Every weight has moved.
    first, second = (state(tmp_path / "run", step=step) for step in (1, 2))
    still = [name for name in first if name.startswith("encoder/") and np.array_equal(first[name], second[name])]
    assert not still
    loaded = load_encoder(tmp_path / "run")
    assert encoder_name(loaded.model) == encoder
    clips = np.stack([melody(seed, 59049) for seed in range(2)])
    assert loaded.encode_clips(clips).std() > 0
    for variable in loaded.model.variables:
        name = "encoder/" + ".S".join(variable.path.split("/")[-2:])
        np.testing.assert_array_equal(variable.numpy(), second[f"{name}/.ATTRIBUTES/VARIABLE_VALUE"])
    other = config_of(corpus, tmp_path / "run", "sample_cnn", 3)
    with pytest.raises(UsageError, match=rf"run with other settings \(encoder {encoder} -> sample_cnn\); choose"):
        train(other)
