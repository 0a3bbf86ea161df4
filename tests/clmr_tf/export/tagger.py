"""The model that the tests of this folder serve: a tiny encoder with a head for three tags, and music for it."""

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import tensorflow as tf

from clmr_tf.export.model_folder import SAVED_MODEL, relative_error
from clmr_tf.export.writing import write_model_folder
from clmr_tf.inference.encoder import Encoder, load_encoder
from clmr_tf.models.heads import Head
from tests.clmr_tf.probed import CLIP, tiny_model
from tests.synthetic import melody

RATE_HZ = 22_050
TAGS = ["low", "loud", "late"]
SONG = melody(3, 2 * CLIP + 500)


def head_of(hidden_units: int) -> Head:
    generator = np.random.default_rng(5)

    def layer(*shape):
        return (generator.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32), np.ones(shape[1], np.float32)

    layers = (*layer(512, hidden_units), *layer(hidden_units, 3)) if hidden_units else layer(512, 3)
    return Head(np.full(512, 0.1, np.float32), np.full(512, 0.5, np.float32), layers)


HEAD = head_of(7)


class Tagger(NamedTuple):
    """An exported model in the three forms that tests compare."""

    folder: Path
    encoder: Encoder
    # Held as a whole: its functions live as long as it does.
    saved: Any

    def call(self, signature: str, **inputs) -> dict[str, np.ndarray]:
        outputs = self.saved.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}


def write_tagger(folder: Path) -> Tagger:
    facts = {"name": "tagger", "licence": "CC0-1.0", "tag_names": TAGS, "single_label": False, "scores": {}}
    write_model_folder(tiny_model(), folder, {**facts, "training": {"step": 3}}, HEAD)
    return Tagger(folder, load_encoder(folder), tf.saved_model.load(str(folder / SAVED_MODEL)))


def tags_of(vectors: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-HEAD.logits(vectors)))


def wav(samples: np.ndarray, rate_hz: int, container: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=container, subtype="PCM_16")
    return file.getvalue()


def assert_same(received: np.ndarray, expected: np.ndarray, tolerance: float = 1e-4) -> None:
    """Same shape, no NaN, and nowhere further apart than `tolerance` of the largest expected value."""
    assert np.shape(received) == expected.shape
    assert relative_error(np.asarray(received), expected) <= tolerance
