"""The Keras models of a model folder: loads them, and checks them and the SavedModel against the golden numbers."""

import hashlib
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from clmr_tf.errors import UsageError
from clmr_tf.export.model_folder import (
    MANIFEST_FILE,
    PARTS_OF_CARDS,
    PROJECTOR_FILE,
    SAVED_MODEL,
    WEIGHTS_FILE,
    check_head,
    read_golden,
    read_manifest,
    require_clip,
    require_equal,
    require_parts,
)
from clmr_tf.files import UnreadableArraysError, read_arrays
from clmr_tf.models import EMBEDDING_DIM
from clmr_tf.models.clip_encoder import ClipEncoder, dtype_policy
from clmr_tf.models.encoders import build_encoder
from clmr_tf.models.projector import build_projector


def read_encoder(folder: Path) -> ClipEncoder:
    """The encoder of a model folder, with its weights.

    Raises:
        UsageError: If manifest or weights cannot be read or do not match.
    """
    arguments = read_manifest(folder)["architecture"]["arguments"]
    try:
        encoder = build_encoder(**arguments)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{folder / MANIFEST_FILE} has an architecture that cannot be built, {arguments} ({error}); export the "
            "model again."
        ) from error
    path = folder / WEIGHTS_FILE
    try:
        encoder.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"The weights {path} cannot be loaded ({reason}); export the model again.") from error
    return encoder


def read_projector(folder: Path) -> keras.Model | None:
    """The projector of a model, float32 [n, 512] -> [n, projection]; None if the folder has none.

    Raises:
        UsageError: If it cannot be read.
    """
    path = folder / PROJECTOR_FILE
    if not path.is_file():
        return None
    try:
        arrays = read_arrays(path, "hidden", "projection")
        matrices = arrays["hidden"], arrays["projection"]
        shapes = [matrix.shape for matrix in matrices]
        if any(len(shape) != 2 or shape[0] != EMBEDDING_DIM for shape in shapes):
            raise UnreadableArraysError(f"its matrices have the shapes {shapes}, which do not fit an embedding")
        with dtype_policy("float32"):
            projector = build_projector(*matrices[1].shape)
        projector.set_weights(list(matrices))
    except (ValueError, TypeError) as error:
        raise UsageError(f"The projector {path} cannot be read ({error}); convert the checkpoint again.") from error
    return projector


def check_golden(folder: Path) -> None:
    """Checks the outputs of SavedModel, weights, head and projector against the golden numbers.

    Raises:
        UsageError: If a part cannot be read, or the manifest is incomplete.
        ClmrError: If outputs differ from the golden numbers or are not finite.
    """
    require_parts(folder, read_manifest(folder), PARTS_OF_CARDS)
    check_golden_of(folder, read_encoder(folder))
    golden = read_golden(folder)
    try:
        serve = tf.saved_model.load(str(folder / SAVED_MODEL)).signatures["serving_default"]
        received = serve(audio=tf.constant(golden["audio"]))["embedding"].numpy()
    except (OSError, ValueError, KeyError, TypeError, tf.errors.OpError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"{folder / SAVED_MODEL} cannot be run ({reason}); export the model again.") from error
    require_equal(folder / SAVED_MODEL, "embeddings", received, golden["embedding"])
    projector = read_projector(folder)
    if projector is not None:
        projected = projector(tf.constant(golden["embedding"])).numpy()
        require_equal(folder / PROJECTOR_FILE, "projections", projected, golden["projection"])


def check_golden_of(folder: Path, encoder: ClipEncoder) -> None:
    """Checks the outputs of an encoder and of the head in its model folder against the golden numbers.

    Raises:
        UsageError: If head or golden numbers cannot be read.
        ClmrError: If outputs differ from the golden numbers or are not finite.
    """
    golden = read_golden(folder)
    require_clip(folder, golden, encoder.clip_num_samples)
    received = encoder(tf.constant(golden["audio"]), training=False).numpy()
    require_equal(folder / WEIGHTS_FILE, "embeddings", received, golden["embedding"])
    check_head(folder, golden)


def weights_hash(encoder: ClipEncoder) -> str:
    """SHA-256 of a built encoder: names, shapes and values of its variables, clip length and sample rate."""
    digest = hashlib.sha256(f"{encoder.clip_num_samples} samples at {encoder.sample_rate_hz} Hz".encode())
    for variable in encoder.variables:
        digest.update(f"{variable.name} {tuple(variable.shape)}".encode())
        digest.update(np.ascontiguousarray(variable.numpy(), np.float32).tobytes())
    return digest.hexdigest()
