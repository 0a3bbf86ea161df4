"""The files for LiteRT and ONNX Runtime, and how much their outputs may differ from the golden numbers."""

import dataclasses
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np

from clmr_tf.errors import ClmrError
from clmr_tf.export.model_folder import gives_tags, read_golden, read_head, read_manifest, relative_error
from clmr_tf.models.heads import probabilities


@dataclasses.dataclass(frozen=True)
class RuntimeFormat:
    """A kind of file, and how much its outputs may differ from the golden numbers.

    Attributes:
        file: Name in the model folder.
        title: Description for the manifest and the model card.
        converters: Packages that write it, in addition to TensorFlow.
        runtime: Package that runs it.
        max_error: Largest error of an embedding, relative to the largest golden value; None if only the cosine is
            limited.
        min_cosine: Smallest cosine between the embedding of a golden clip and the golden embedding.
        max_head_error: Largest error of a tag's probability, compared with the head on the file's own embedding.
    """

    file: str
    title: str
    converters: tuple[str, ...]
    runtime: str
    max_error: float | None
    min_cosine: float
    max_head_error: float


LITERT, ONNX_RUNTIME = "ai-edge-litert", "onnxruntime"
"""Names of the packages."""

TFLITE_FORMATS = {
    "fp32": RuntimeFormat("model.tflite", "LiteRT, float32", (), LITERT, 1e-3, 0.9999, 1e-3),
    # Weights are rounded by up to 2^-11. For an encoder after 300 steps on the demo corpus the error was 1.3e-3.
    "fp16": RuntimeFormat("model-fp16.tflite", "LiteRT, weights in float16", (), LITERT, 5e-3, 0.9999, 5e-3),
    "int8": RuntimeFormat("model-int8.tflite", "LiteRT, convolutions in 8-bit integers", (), LITERT, None, 0.995, 1e-3),
}
ONNX_FORMAT = RuntimeFormat("model.onnx", "ONNX, float32", ("tf2onnx", "onnx"), ONNX_RUNTIME, 1e-3, 0.9999, 1e-3)
FORMATS = {**TFLITE_FORMATS, "onnx": ONNX_FORMAT}
"""Formats by the name of their kind."""


Outputs = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Golden:
    """Expected outputs for the golden clips.

    Attributes:
        embedding: float32 [rows, 512], in the order of `clmr_tf.export.runtime_process`.
        tags_of: From embeddings to probabilities, float64 [rows, tags]; None for a model without tags.
    """

    embedding: np.ndarray
    tags_of: Callable[[np.ndarray], np.ndarray] | None

    @property
    def outputs(self) -> Outputs:
        """The outputs by name."""
        return {"embedding": self.embedding} | ({"tags": self.tags_of(self.embedding)} if self.tags_of else {})


def golden_outputs(folder: Path) -> Golden:
    """The expected outputs of a model folder: for all clips, then for the first clip alone.

    Raises:
        UsageError: If head or golden numbers cannot be read.
    """
    embedding = read_golden(folder)["embedding"]
    together_and_first = np.concatenate([embedding, embedding[:1]])
    if not gives_tags(folder):
        return Golden(together_and_first, None)
    head, single_label = read_head(folder), read_manifest(folder)["single_label"]
    return Golden(
        together_and_first, lambda vectors: probabilities(head.logits(vectors).astype(np.float64), single_label)
    )


def compare(wanted: RuntimeFormat, received: Outputs, golden: Golden) -> dict[str, float]:
    """The errors of a file's outputs, for the manifest.

    Embeddings and head are compared separately, because a steep head amplifies small differences of the embeddings. The
    head is therefore compared on the file's own embeddings.

    Args:
        wanted: The format, with its limits.
        received: Outputs of the file.
        golden: Expected outputs.

    Raises:
        ClmrError: If an output is missing, has the wrong shape, is not finite or exceeds its limit.
    """
    expected = golden.outputs
    shapes, expected_shapes = ({name: rows.shape for name, rows in side.items()} for side in (received, expected))
    if shapes != expected_shapes:
        raise ClmrError(f"{wanted.file} gives outputs of shapes {shapes}, not {expected_shapes}; it was not kept.")
    for name, rows in received.items():
        if not np.isfinite(rows).all():
            raise ClmrError(
                f"The `{name}` that {wanted.file} gives for the golden clips is not finite; it was not kept."
            )
    errors = compare_embeddings(wanted, received["embedding"], golden.embedding, "it was not kept")
    if golden.tags_of:
        errors["largest_head_error"] = _head_error(wanted, received["tags"], golden.tags_of(received["embedding"]))
        errors["largest_tag_error"] = float(np.max(np.abs(received["tags"] - expected["tags"])))
    return errors


def compare_embeddings(
    wanted: RuntimeFormat, embedding: np.ndarray, expected: np.ndarray, consequence: str
) -> dict[str, float]:
    """The errors of finite embeddings of the golden clips, for the manifest.

    Args:
        wanted: The format, with its limits.
        embedding: What its file gives, float32 [rows, 512].
        expected: The golden embeddings.
        consequence: The end of an error message.

    Raises:
        ClmrError: If the errors exceed the limits.
    """
    error = relative_error(embedding, expected)
    norms = np.linalg.norm(embedding, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = float(np.min(np.sum(embedding * expected, axis=1) / norms)) if norms.all() else 0.0
    is_near = wanted.max_error is None or error <= wanted.max_error
    if not (is_near and cosine >= wanted.min_cosine):
        raise ClmrError(
            f"{wanted.file} gives embeddings of the golden clips that differ by {error:.1e} of their largest value, "
            f"with a cosine of {cosine:.5f}; {consequence}."
        )
    return {"largest_error": error, "least_cosine": cosine}


def _head_error(wanted: RuntimeFormat, tags: np.ndarray, expected: np.ndarray) -> float:
    error = float(np.max(np.abs(tags - expected)))
    if not error <= wanted.max_head_error:
        raise ClmrError(
            f"{wanted.file} gives probabilities of tags for the golden clips that differ by {error:.1e} (allowed "
            f"{wanted.max_head_error:.0e}) from those of the head; it was not kept."
        )
    return error


def version_of(package: str) -> str | None:
    """Version of an installed package, None if it is absent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
