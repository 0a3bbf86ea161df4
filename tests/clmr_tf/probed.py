"""A tiny model, its exported folder, and a corpus with several tasks, for the tests of probes and exports."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.data.corpus import Corpus
from clmr_tf.data.tasks import CorpusTask, Label, write_task
from clmr_tf.export.serving import ServedModel
from clmr_tf.export.writing import write_model_folder
from clmr_tf.models.encoders import build_encoder
from clmr_tf.models.sample_cnn import SampleCNN
from tests.synthetic import synthetic_corpus

CLIP = 59049
TAGS = ("brass", "keys", "strings")
NUM_SONGS = {"train": 14, "valid": 6, "test": 10}
# Item k has k more samples: the first test item is one sample shorter than two clips, the second exactly two.
NUM_SAMPLES = 2 * CLIP - 21


@contextlib.contextmanager
def only_default_signature() -> Iterator[None]:
    """Makes exports faster: only `serving_default`, without validation or tags."""

    def signatures(served):
        def function(audio):
            return {"embedding": served._encoder(audio, training=False)}

        return {"serving_default": (function, [tf.TensorSpec([None, served._encoder.clip_num_samples], name="audio")])}

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(ServedModel, "signatures", signatures)
        yield


def tiny_model() -> SampleCNN:
    """Builds an encoder with running statistics that differ from their initial values."""
    encoder = build_encoder(width=0.0625, seed=2)
    generator = np.random.default_rng(0)
    for normalization in encoder.normalizations:
        normalization.moving_mean.assign(generator.uniform(-0.2, 0.2, normalization.beta.shape))
    return encoder


def write_tiny_model(model: SampleCNN, folder: Path) -> Path:
    metadata = {
        "name": "tiny",
        "licence": "CC0-1.0",
        "tag_names": [],
        "single_label": False,
        "scores": {},
        "training": {"step": 3},
    }
    with only_default_signature():
        write_model_folder(model, folder, metadata)
    return folder


def write_corpus_with_tasks(folder: Path) -> Corpus:
    """Writes clips with one tag each, by register, and two tasks: several tags per clip, and two classes."""
    corpus = synthetic_corpus(folder, num_songs=NUM_SONGS, num_samples=NUM_SAMPLES, tag_names=TAGS)
    several = {
        item.id: Label(item.split, tuple(tag for bit, tag in enumerate(("low", "loud", "never")) if row % 4 >> bit & 1))
        for row, item in enumerate(corpus.items)
    }
    halves = {item.id: Label(item.split, (("left", "right")[row % 2],)) for row, item in enumerate(corpus.items[:24])}
    for task in (
        CorpusTask("several", "By number.", ("low", "loud", "never"), False, several),
        CorpusTask("halves", "By number.", ("left", "right"), True, halves),
    ):
        write_task(task, folder)
    return corpus
