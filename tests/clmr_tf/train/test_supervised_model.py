"""What a supervised run learns: its export scores music by its own head and starts a fine-tuning."""

import dataclasses

import numpy as np
import pytest

from clmr_tf.errors import UsageError
from clmr_tf.export.__main__ import ExportConfig, export
from clmr_tf.export.model_folder import read_head
from clmr_tf.inference.encoder import load_encoder
from clmr_tf.probe.evaluation import probe_model
from clmr_tf.probe.settings import ProbeConfig
from clmr_tf.train.run import train, training_data
from tests.clmr_tf.probed import only_default_signature
from tests.clmr_tf.train.labelled_runs import TAGS, config_of, write_labelled_corpus
from tests.synthetic import synthetic_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_labelled_corpus(tmp_path_factory)


@pytest.fixture(scope="module")
def exported(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    settings = {"optimizer": "adam", "learning_rate": 1e-3, "batch_size": 10, "validate_every": 60, "early_stopping": 0}
    train(config_of(corpus, folder / "run", steps=60, **settings))
    with only_default_signature():
        return export(ExportConfig(model=folder / "run", out=folder / "model"))


def probe_of(corpus, model, **settings) -> dict:
    places = {"model": model, "corpus": str(corpus.folder), "features_cache": model.parent / "features"}
    return probe_model(ProbeConfig(**places, preset="released", head="own", **settings))[0]


def test_own_head_scores_an_exported_model_window_by_window(corpus, exported):
    result = probe_of(corpus, exported)
    assert (result["head"], result["objective"], result["fit"]) == ("own", "supervised", None)
    assert result["labels"]["num_songs"] == 10 and result["protocol"]["head"] is None

    encoder, head = load_encoder(exported), read_head(exported)
    items, is_right = corpus.items_of("test"), []
    for item in items:
        samples = corpus.read_samples(item)
        # Each recording has two whole windows.
        chunks = np.stack([samples[start : start + 59049] for start in (0, 59049)])
        logits = head.logits(encoder.encode_clips(chunks)).astype(np.float64)
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        is_right.append(TAGS[probabilities.mean(axis=0).argmax()] == item.tags[0])
    assert result["scores"]["test"]["accuracy"]["mean"] == pytest.approx(np.mean(is_right))
    assert result["scores"]["test"]["num_windows"] == 2 * len(items)


def test_supervised_run_scores_above_chance(corpus, exported):
    # Chance is one in five.
    assert probe_of(corpus, exported)["scores"]["test"]["accuracy"]["mean"] >= 0.6


@pytest.mark.soak
def test_fine_tuning_starts_from_the_pretrained_weights(corpus, exported, tmp_path):
    settings = {"objective": "finetune", "pretrained": exported, "steps": 1, "validate_every": 0, "early_stopping": 0}
    # The running average must start from the loaded weights, not from the random initialization.
    settings |= {"schedule": "constant", "optimizer": "sgd", "learning_rate": 1e-9, "ema_momentum": 0.5}
    config = config_of(corpus, tmp_path / "run", **settings)
    train(config)
    weights = load_encoder(exported).model.trainable_variables
    tuned = load_encoder(config.workdir).model.trainable_variables
    for before, after in zip(weights, tuned, strict=True):
        np.testing.assert_allclose(after.numpy(), before.numpy(), rtol=1e-4, atol=1e-6)
    with pytest.raises(
        UsageError, match=r"--width 0\.0625 and --sample-rate-hz 22050, but the run has sample_cnn, 0\.125 and"
    ):
        train(dataclasses.replace(config, workdir=tmp_path / "wider", width=0.125))


def test_unusable_labels_and_settings_are_rejected(corpus, exported, tmp_path):
    unlabelled = synthetic_corpus(tmp_path / "unlabelled", num_songs={"train": 4, "valid": 2})
    with pytest.raises(UsageError, match="The corpus unlabelled has no tags"):
        train(config_of(unlabelled, tmp_path / "run", steps=1))
    others = {"num_songs": {"train": 4, "valid": 2, "test": 2}, "num_samples": 60_000, "tag_names": ("a", "z")}
    with pytest.raises(UsageError, match="was trained for other tags than those of others, such as 'a'"):
        probe_of(synthetic_corpus(tmp_path / "others", **others), exported)
    config = config_of(corpus, tmp_path / "run", best_metric="validation_average_precision")
    with pytest.raises(UsageError, match=r"The clips have one tag each, for which --best-metric .* use validation_acc"):
        training_data(corpus, config)
    with pytest.raises(UsageError, match="--head own scores a model as it was trained"):
        probe_of(corpus, exported, labels=0.5)
