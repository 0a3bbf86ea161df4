"""Reads model folders and checks them against their golden numbers.

saved_model/          TensorFlow SavedModel, `serving_default`: audio [n, clip] -> embedding [n, 512]
encoder.weights.h5    the same weights for `clmr_tf.models.encoders.build_encoder`
manifest.json         architecture, input, training, origin of an added head, scores, licence
head.npz              optional: from the embedding to the logits of the tags
projector.npz         optional, only in converted models: from the embedding to the projection
README.md             model card: the manifest in words, and how to load the model
model*.tflite         optional, for LiteRT: float32, float16 and 8-bit integers
model.onnx            optional, for ONNX Runtime
web/                  optional: a page that runs the model in a browser
golden.npz            audio, and the embedding, logits and projection that every loader and runtime must compute
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.files import UnreadableArraysError, read_arrays
from clmr_tf.models import EMBEDDING_DIM
from clmr_tf.models.heads import Head

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
WEIGHTS_HASH = "weights_sha256"
"""Entry of the manifest, from `clmr_tf.export.keras_model.weights_hash`."""

# At the end of the hash of an encoder that computes in 8-bit integers.
_INT8 = "-int8"
_ADVICE = "give the folder that `python -m clmr_tf.export` wrote"
# Prepared corpora have a manifest.json with a format version too.
_PARTS_OF_MODELS = {
    **{"architecture.arguments": dict, "training.step": int, "scores": dict},
    **{"tag_names": list, "single_label": bool, WEIGHTS_HASH: str},
}
PARTS_OF_CARDS = {
    **{"name": str, "licence": str, "architecture.class": str, "output.dimensions": int},
    **{"input.clip_num_samples": int, "input.sample_rate_hz": int},
}
"""Also needed by the model card."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a model folder, with at least architecture, hash of the weights, training step, scores and tags.

    Raises:
        UsageError: If it is missing, damaged or of another format version.
    """
    path = folder / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} is not a model folder: {path} cannot be read; {_ADVICE}.") from error
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        raise UsageError(f"{path} is not of format version {FORMAT_VERSION}, which this program reads; {_ADVICE}.")
    require_parts(folder, manifest, _PARTS_OF_MODELS)
    return manifest


def recorded_hash(folder: Path, runtime: str) -> str | None:
    """The hash of the encoder that a runtime loads, without loading it; None if it is not recorded.

    Args:
        folder: Model folder or run folder; only a model folder records it.
        runtime: As for `load_encoder`.

    Raises:
        UsageError: If it is a model folder whose manifest cannot be read.
    """
    weights = read_manifest(folder).get(WEIGHTS_HASH) if (folder / MANIFEST_FILE).is_file() else None
    return weights + _INT8 * (runtime == "litert-int8") if isinstance(weights, str) else None


def is_same_model(one: str, other: str) -> bool:
    """Whether two hashes of encoders are of the same weights, be they computed in float32 or in 8-bit integers."""
    return one.removesuffix(_INT8) == other.removesuffix(_INT8)


def require_parts(folder: Path, manifest: dict[str, Any], parts: dict[str, type]) -> None:
    """Raises UsageError if one of `parts`, such as "training.step", is missing or of the wrong type."""

    def part(names: str) -> Any:
        found = manifest
        for name in names.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        return found

    missing = [names for names, kind in parts.items() if not isinstance(part(names), kind)]
    if missing:
        raise UsageError(
            f"{folder} is not a model folder: {folder / MANIFEST_FILE} has no `{'`, `'.join(missing)}`; {_ADVICE}."
        )


WEIGHTS_FILE = "encoder.weights.h5"
SAVED_MODEL = "saved_model"
GOLDEN_FILE = "golden.npz"
HEAD_FILE = "head.npz"
PROJECTOR_FILE = "projector.npz"
CARD_FILE = "README.md"
WEB_FOLDER = "web"
GOLDEN_TOLERANCE = 1e-4
"""Largest allowed error of an output, relative to the largest golden value."""


def gives_tags(folder: Path) -> bool:
    """Whether a model has a head and so outputs tags."""
    return (folder / HEAD_FILE).is_file()


def read_head(folder: Path) -> Head:
    """The head of a model, which maps the embedding to the logits of its tags.

    Raises:
        UsageError: If there is none, it cannot be read, or it does not match the embedding or the tag names.
    """
    path = folder / HEAD_FILE
    if not path.is_file():
        raise UsageError(
            f"The model in {folder} has no head; export a run that was trained with --objective supervised "
            "or finetune, convert a checkpoint with its head, or choose another --head."
        )
    try:
        head = Head.load(path)
    except UnreadableArraysError as error:
        raise UsageError(f"The head {path} cannot be read ({error}); export the model again.") from error
    names = read_manifest(folder)["tag_names"]
    if (head.num_features, head.num_outputs) != (EMBEDDING_DIM, len(names)):
        raise UsageError(
            f"The head {path} has {head.num_features} inputs and {head.num_outputs} outputs, but an embedding has "
            f"{EMBEDDING_DIM} numbers and {MANIFEST_FILE} {len(names)} tags; export the model again."
        )
    return head


def read_golden(folder: Path) -> dict[str, np.ndarray]:
    """The golden numbers of a model folder.

    Returns:
        float32 "audio" [clips, samples] and "embedding" [clips, 512]; with a head "logits" [clips, tags]; with a
        projector "projection" [clips, projection].

    Raises:
        UsageError: If they cannot be read or are incomplete.
    """
    of_parts = {"logits": HEAD_FILE, "projection": PROJECTOR_FILE}
    names = ["audio", "embedding", *(name for name, file in of_parts.items() if (folder / file).is_file())]
    try:
        arrays = read_arrays(folder / GOLDEN_FILE, *names)
        golden = {name: arrays[name] for name in names}
        if not all(array.dtype.kind == "f" and array.ndim == 2 and array.size for array in golden.values()):
            raise UnreadableArraysError("an array is not two-dimensional, not of floats, or empty")
        num_rows = {len(array) for array in golden.values()}
        if len(num_rows) > 1 or golden["embedding"].shape[1] != EMBEDDING_DIM:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in golden.items())
            raise UnreadableArraysError(f"its shapes {shapes} do not match")
    except UnreadableArraysError as error:
        path = folder / GOLDEN_FILE
        raise UsageError(f"The golden numbers {path} cannot be read ({error}); export the model again.") from error
    return {name: array.astype(np.float32) for name, array in golden.items()}


def require_clip(folder: Path, golden: dict[str, np.ndarray], clip_num_samples: int) -> None:
    """Raises UsageError if the golden clips have another length than those of the encoder."""
    if golden["audio"].shape[1] != clip_num_samples:
        raise UsageError(
            f"{folder / GOLDEN_FILE} has clips of {golden['audio'].shape[1]} samples, and the encoder needs "
            f"{clip_num_samples}; export the model again."
        )


def check_head(folder: Path, golden: dict[str, np.ndarray]) -> None:
    """Checks the logits of the head, if the model has one, against the golden numbers.

    Raises:
        UsageError: If the head cannot be read.
        ClmrError: If its logits differ from the golden numbers or are not finite.
    """
    if "logits" in golden:
        require_equal(folder / HEAD_FILE, "logits", read_head(folder).logits(golden["embedding"]), golden["logits"])


def relative_error(received: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest expected value; NaN if a received value is."""
    return float(np.max(np.abs(received - expected)) / max(np.max(np.abs(expected)), 1e-12))


def require_finite(path: Path, what: str, received: np.ndarray) -> None:
    """Raises ClmrError if outputs or golden numbers are NaN or infinite."""
    if not np.isfinite(received).all():
        raise ClmrError(
            f"{path} has {what} that are not finite (NaN or infinite); export a checkpoint of a run whose loss stayed "
            "finite."
        )


def require_equal(path: Path, what: str, received: np.ndarray, expected: np.ndarray) -> None:
    """Raises an error, which names the file `path`, if outputs are not the golden ones.

    Raises:
        UsageError: If the shape differs.
        ClmrError: If they differ, or are not finite.
    """
    if received.shape != expected.shape:
        raise UsageError(
            f"{path} gives {what} of shape {list(received.shape)}, and {GOLDEN_FILE} has {list(expected.shape)}; "
            "export the model again."
        )
    require_finite(path, what, received)
    require_finite(path.with_name(GOLDEN_FILE), what, expected)
    error = relative_error(received, expected)
    if not error <= GOLDEN_TOLERANCE:
        raise ClmrError(
            f"{path} gives {what} that differ from {GOLDEN_FILE} by {error:.1e} of their largest value (allowed "
            f"{GOLDEN_TOLERANCE:.0e}); export the model again."
        )
