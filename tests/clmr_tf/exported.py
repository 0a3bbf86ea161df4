"""A tiny exported model with a head and a projector, its test music, and the tags that its head must give."""

import functools
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import tensorflow as tf

from clmr_tf.export.keras_model import weights_hash
from clmr_tf.export.model_folder import relative_error
from clmr_tf.export.writing import write_model_folder
from clmr_tf.inference.encoder import Encoder
from clmr_tf.models.heads import Head, head_file_of
from clmr_tf.models.projector import build_projector
from clmr_tf.models.sample_cnn import SampleCNN
from tests.clmr_tf.probed import CLIP, tiny_model
from tests.synthetic import melody

RATE_HZ = 22_050
TAGS = ["low", "loud", "late"]
SONG = melody(3, 2 * CLIP + 500)
MANIFEST_ENTRIES = {
    "name": "tiny",
    "licence": "CC0-1.0",
    "tag_names": TAGS,
    "single_label": False,
    "scores": {},
    "training": {"step": 3},
}
# Tags of a probe, and the hidden units of its head.
PROBE_TAGS = ["brass", "keys", "strings"]
NUM_PROBE_HIDDEN = 24


def _head() -> Head:
    generator = np.random.default_rng(5)

    def layer(*shape):
        return (generator.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32), np.ones(shape[1], np.float32)

    return Head(np.full(512, 0.1, np.float32), np.full(512, 0.5, np.float32), (*layer(512, 512), *layer(512, 3)))


HEAD = _head()


class ExportedModel(NamedTuple):
    """An exported model in the three forms that tests compare."""

    folder: Path
    encoder: Encoder
    # The loaded object must stay alive for its functions to work.
    saved: Any

    def call(self, signature: str, **inputs) -> dict[str, np.ndarray]:
        outputs = self.saved.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}


@functools.cache
def model() -> SampleCNN:
    """Returns the model that all tests share; no test may change it."""
    return tiny_model()


def write_exported(folder: Path) -> None:
    write_model_folder(model(), folder, MANIFEST_ENTRIES, HEAD, build_projector(projection_dim=64))


@functools.cache
def music() -> np.ndarray:
    """Returns three clips, float32 [3, clip]."""
    return np.stack([melody(seed, CLIP) for seed in range(3)])


@functools.cache
def embedding_of_music() -> np.ndarray:
    return model()(music()).numpy()


def write_probe(folder: Path) -> Path:
    """Writes a probe result of the tiny model; its head standardizes, has a hidden layer and a single label."""
    features, generator = embedding_of_music(), np.random.default_rng(1)
    shapes = (512, NUM_PROBE_HIDDEN), (NUM_PROBE_HIDDEN, 3)
    layers = [generator.standard_normal(shape) / np.sqrt(shape[0]) for shape in shapes]
    weights = layers[0], generator.standard_normal(NUM_PROBE_HIDDEN), 2 * layers[1], generator.standard_normal(3)
    head = Head(features.mean(0), features.std(0) + 0.01 * features.max(), tuple(w.astype(np.float32) for w in weights))
    file = folder / "evaluation-songs-released-mlp.json"
    source = {"kind": "model", "model_hash": weights_hash(model())}
    corpus = {"name": "songs", "fingerprint": "abc", "tag_names": PROBE_TAGS}
    scores = {"test": {"num_songs": 4, "num_clips": 9, "accuracy": {"mean": 0.75, "interval": [0.5, 1.0]}}}
    training = {
        "preset": "released",
        "protocol": {"head": {"hidden_units": NUM_PROBE_HIDDEN}},
        "labels": {"num_songs": 6, "num_clips": 12},
        "seed": 42,
        "fit": {"num_steps": 1},
    }
    result = {"features": source, "corpus": corpus, "single_label": True, "scores": scores, **training}
    file.write_text(json.dumps(result))
    head.save(head_file_of(file))
    return file


def tags_by_definition(head_file: Path, single_label: bool, features: np.ndarray) -> np.ndarray:
    """Computes tags of features [n, 512] from the arrays of a head.npz, row by row in float64."""
    with np.load(head_file) as file:
        head = {name: array.astype(np.float64) for name, array in file.items()}
    rows = []
    for row in features.astype(np.float64):
        values = head["weights_0"].T.dot((row - head["mean"]) / head["standard_deviation"]) + head["weights_1"]
        if "weights_2" in head:
            values = head["weights_2"].T.dot(np.where(values > 0, values, 0)) + head["weights_3"]
        powers = [np.exp(value) for value in values]
        rows.append([power / (sum(powers) if single_label else 1 + power) for power in powers])
    return np.array(rows)


def tags_of(vectors: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-HEAD.logits(vectors)))


def wav(samples: np.ndarray, rate_hz: int, container: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=container, subtype="PCM_16")
    return file.getvalue()


def assert_same(received: np.ndarray, expected: np.ndarray, tolerance: float = 1e-4) -> None:
    """Asserts the same shape, no NaN, and differences of at most `tolerance` of the largest expected value."""
    assert np.shape(received) == expected.shape
    assert relative_error(np.asarray(received), expected) <= tolerance
