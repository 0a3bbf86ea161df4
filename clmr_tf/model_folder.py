"""The folder of an exported model, read and checked against its own golden numbers.

saved_model/          TensorFlow SavedModel, `serving_default`: audio [n, clip] -> embedding [n, 512]
encoder.weights.h5    the same weights for `SampleCNN`
manifest.json         architecture, input, training, scores, licence
head.npz              of a model that was trained with labels: from the embedding to the logits of its tags
projector.npz         of a model that brought one: from the embedding to what the contrastive loss saw
README.md             the model card: the manifest in words, and how to load the model
model*.tflite         of an export that was asked for them: for LiteRT, in float32, float16 and 8-bit integers
model.onnx            the same for ONNX Runtime
golden.npz            an input and the embedding that every loader and runtime must give for it, and logits and
                      projection if any
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from clmr_tf.encoder import build_encoder, dtype_policy
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.evaluation.heads import Head
from clmr_tf.files import write_atomically
from clmr_tf.model_card import model_card
from clmr_tf.models.projector import build_projector
from clmr_tf.models.sample_cnn import SampleCNN

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "encoder.weights.h5"
SAVED_MODEL = "saved_model"
GOLDEN_FILE = "golden.npz"
HEAD_FILE = "head.npz"
PROJECTOR_FILE = "projector.npz"
CARD_FILE = "README.md"
GOLDEN_TOLERANCE = 1e-4
"""Largest error of an embedding, relative to the largest golden value, that another runtime may have."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a model folder, with at least architecture, training step and scores in it.

    Raises:
        UsageError: If there is none that this program can read.
    """
    path = folder / MANIFEST_FILE
    advice = "give the folder that `python -m clmr_tf.export` wrote"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} is not a model folder: {path} cannot be read; {advice}.") from error
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        raise UsageError(f"{path} is not of format version {FORMAT_VERSION}, which this program reads; {advice}.")
    # Prepared corpora have a manifest.json of a format version, too.
    try:
        parts = manifest["architecture"]["arguments"], manifest["training"]["step"], manifest["scores"]
        is_whole = all(isinstance(part, kind) for part, kind in zip(parts, (dict, int, dict), strict=True))
    except (KeyError, TypeError):
        is_whole = False
    if not is_whole:
        raise UsageError(
            f"{folder} is not a model folder: {path} lacks `architecture`, `training` or `scores`; {advice}."
        )
    return manifest


def read_encoder(folder: Path) -> SampleCNN:
    """The encoder of a model folder, with its weights.

    Raises:
        UsageError: If manifest or weights cannot be read, or do not belong together.
    """
    arguments = read_manifest(folder)["architecture"]["arguments"]
    try:
        encoder = build_encoder(**arguments)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{folder / MANIFEST_FILE} has no architecture that this program can build; received {arguments}, so "
            "export the model again."
        ) from error
    path = folder / WEIGHTS_FILE
    try:
        encoder.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"The weights {path} cannot be loaded ({reason}); export the model again.") from error
    return encoder


def read_head(folder: Path) -> Head:
    """The head that a model was trained with.

    Raises:
        UsageError: If the model has none, or it cannot be read.
    """
    path = folder / HEAD_FILE
    if not path.is_file():
        raise UsageError(
            f"The model in {folder} has no head of its own; export a run that was trained with --objective supervised "
            "or finetune, convert a checkpoint with its head, or choose another --head."
        )
    try:
        return Head.load(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"The head {path} cannot be read ({error}); export the model again.") from error


def read_projector(folder: Path) -> keras.Model | None:
    """The projector of a model, float32 [n, 512] -> [n, projection]; None if the folder has none.

    Raises:
        UsageError: If it cannot be read.
    """
    path = folder / PROJECTOR_FILE
    if not path.is_file():
        return None
    try:
        # NumPy leaves a file open that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as matrices:
            hidden, projection = matrices["hidden"], matrices["projection"]
        with dtype_policy("float32"):
            projector = build_projector(*projection.shape)
        projector.set_weights([hidden, projection])
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UsageError(f"The projector {path} cannot be read ({error}); convert the checkpoint again.") from error
    return projector


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Replaces the manifest of a model folder, and the model card, which says the same in words."""
    write_atomically(folder / MANIFEST_FILE, json.dumps(manifest, indent=2) + "\n")
    with np.load(folder / GOLDEN_FILE) as golden:
        card = model_card(manifest, golden["embedding"])
    write_atomically(folder / CARD_FILE, card)


def record_score(folder: Path, corpus: str, score: dict[str, Any]) -> None:
    """Writes what a model scored on a corpus into its manifest and its card."""
    manifest = read_manifest(folder)
    manifest["scores"][corpus] = score
    write_manifest(folder, manifest)


def check_golden(folder: Path) -> None:
    """Runs the golden input through the SavedModel and through `SampleCNN` with the stored weights.

    Raises:
        ClmrError: If either gives other embeddings than golden.npz holds, or none that are finite.
    """
    golden = _read_golden(folder)
    serve = tf.saved_model.load(str(folder / SAVED_MODEL)).signatures["serving_default"]
    received = serve(audio=tf.constant(golden["audio"]))["embedding"].numpy()
    _require_equal(folder / SAVED_MODEL, "embeddings", received, golden["embedding"])
    check_golden_of(folder, read_encoder(folder))
    projector = read_projector(folder)
    if projector is not None:
        projected = projector(tf.constant(golden["embedding"])).numpy()
        _require_equal(folder / PROJECTOR_FILE, "projections", projected, golden["projection"])


def check_golden_of(folder: Path, encoder: SampleCNN) -> None:
    """Runs the golden input through the encoder that was read from a model folder, and through its head.

    Raises:
        ClmrError: If they give other numbers than golden.npz holds, or none that are finite.
    """
    golden = _read_golden(folder)
    received = encoder(tf.constant(golden["audio"]), training=False).numpy()
    _require_equal(folder / WEIGHTS_FILE, "embeddings", received, golden["embedding"])
    if "logits" in golden:
        _require_equal(folder / HEAD_FILE, "logits", read_head(folder).logits(received), golden["logits"])


def _read_golden(folder: Path) -> dict[str, np.ndarray]:
    path = folder / GOLDEN_FILE
    try:
        # NumPy leaves a file open that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            golden = dict(arrays)
        if not {"audio", "embedding"} <= set(golden):
            raise KeyError("no audio, or no embedding")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"The golden numbers {path} cannot be read ({error}); export the model again.") from error
    return golden


def relative_error(received: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest expected value; NaN if anything received is."""
    return float(np.max(np.abs(received - expected)) / max(np.max(np.abs(expected)), 1e-12))


def _require_equal(path: Path, what: str, received: np.ndarray, expected: np.ndarray) -> None:
    error = relative_error(received, expected)
    if not error <= GOLDEN_TOLERANCE:
        raise ClmrError(
            f"{path} gives {what} that differ from {GOLDEN_FILE} by {error:.1e} of their largest value (allowed "
            f"{GOLDEN_TOLERANCE:.0e}); export the model again."
        )
