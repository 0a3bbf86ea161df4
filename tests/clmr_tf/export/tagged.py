"""A tiny model that gets a head, and what a head makes of embeddings, by its definition."""

import functools
import json
from pathlib import Path

import numpy as np

from clmr_tf.export.model_folder import weights_hash
from clmr_tf.models.heads import Head, head_file_of
from clmr_tf.models.sample_cnn import SampleCNN
from tests.clmr_tf.probed import CLIP, tiny_model
from tests.synthetic import melody

TAGS = ["brass", "keys", "strings"]
NUM_HIDDEN = 24
NUM_HEAD_WEIGHTS = (512 + 1) * NUM_HIDDEN + (NUM_HIDDEN + 1) * len(TAGS)


@functools.cache
def model() -> SampleCNN:
    """Once for all tests, none of which changes it."""
    return tiny_model()


@functools.cache
def music() -> np.ndarray:
    """Three clips, float32 [3, clip]."""
    return np.stack([melody(seed, CLIP) for seed in range(3)])


@functools.cache
def embedding_of_music() -> np.ndarray:
    return model()(music()).numpy()


def write_probe(folder: Path) -> Path:
    """The result of a probe of the tiny model, whose head standardises, has a hidden layer and one label a clip."""
    features, generator = embedding_of_music(), np.random.default_rng(1)
    layers = [generator.standard_normal(shape) / np.sqrt(shape[0]) for shape in ((512, NUM_HIDDEN), (NUM_HIDDEN, 3))]
    weights = layers[0], generator.standard_normal(NUM_HIDDEN), 2 * layers[1], generator.standard_normal(3)
    head = Head(features.mean(0), features.std(0) + 0.01 * features.max(), tuple(w.astype(np.float32) for w in weights))
    file = folder / "evaluation-songs-released-mlp.json"
    source = {"kind": "model", "model_hash": weights_hash(model())}
    corpus = {"name": "songs", "fingerprint": "abc", "tag_names": TAGS}
    scores = {"test": {"num_songs": 4, "num_clips": 9, "accuracy": {"mean": 0.75, "interval": [0.5, 1.0]}}}
    result = {"features": source, "corpus": corpus, "single_label": True, "scores": scores}
    file.write_text(json.dumps(result))
    head.save(head_file_of(file))
    return file


def tags_by_definition(head_file: Path, single_label: bool, features: np.ndarray) -> np.ndarray:
    """What the arrays of a head.npz make of features [n, 512], row by row in float64."""
    with np.load(head_file) as file:
        head = {name: array.astype(np.float64) for name, array in file.items()}
    rows = []
    for row in features.astype(np.float64):
        values = head["weights_0"].T.dot((row - head["mean"]) / head["deviation"]) + head["weights_1"]
        if "weights_2" in head:
            values = head["weights_2"].T.dot(np.where(values > 0, values, 0)) + head["weights_3"]
        powers = [np.exp(value) for value in values]
        rows.append([power / (sum(powers) if single_label else 1 + power) for power in powers])
    return np.array(rows)
