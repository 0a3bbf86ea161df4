"""Compares what a file for another runtime gives for the golden clips with what encoder and head give for them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from clmr_tf.errors import ClmrError
from clmr_tf.head import probabilities
from clmr_tf.model_folder import gives_tags, read_golden, read_head, relative_error
from clmr_tf.model_manifest import read_manifest
from clmr_tf.runtimes.formats import RuntimeFormat

Outputs = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Golden:
    """What a file has to give for the golden clips.

    Attributes:
        embedding: float32 [rows, dimensions], as `execution` orders the rows.
        tags_of: From embeddings to probabilities, float64 [rows, tags]; None for a model without a head.
    """

    embedding: np.ndarray
    tags_of: Callable[[np.ndarray], np.ndarray] | None

    @property
    def outputs(self) -> Outputs:
        """The outputs by their names."""
        return {"embedding": self.embedding} | ({"tags": self.tags_of(self.embedding)} if self.tags_of else {})


def golden_outputs(folder: Path) -> Golden:
    """The golden outputs of a model folder: of all clips, and of the first one again.

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
    """How far the outputs of a file are from the golden ones, for the manifest.

    Embeddings and head are judged apart, since a steep head makes much of a small difference between embeddings: what
    is limited is the error of the head for the embeddings of the file itself.

    Args:
        wanted: What is allowed.
        received: Of the file.
        golden: Of the model.

    Raises:
        ClmrError: If an output is missing or has another shape, or they differ by more than is allowed or are NaN.
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
    facts = _compare_embeddings(wanted, received["embedding"], golden.embedding)
    if golden.tags_of:
        facts["largest_head_error"] = _head_error(wanted, received["tags"], golden.tags_of(received["embedding"]))
        facts["largest_tag_error"] = float(np.max(np.abs(received["tags"] - expected["tags"])))
    return facts


def _compare_embeddings(wanted: RuntimeFormat, embedding: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    error = relative_error(embedding, expected)
    norms = np.linalg.norm(embedding, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = float(np.min(np.sum(embedding * expected, axis=1) / norms)) if norms.all() else 0.0
    is_near = wanted.largest_error is None or error <= wanted.largest_error
    if not (is_near and cosine >= wanted.least_cosine):
        raise ClmrError(
            f"{wanted.file} gives embeddings of the golden clips that differ by {error:.1e} of their largest value, "
            f"with a cosine of {cosine:.5f}; it was not kept."
        )
    return {"largest_error": error, "least_cosine": cosine}


def _head_error(wanted: RuntimeFormat, tags: np.ndarray, expected: np.ndarray) -> float:
    error = float(np.max(np.abs(tags - expected)))
    if not error <= wanted.largest_head_error:
        raise ClmrError(
            f"{wanted.file} gives probabilities of tags for the golden clips that differ by {error:.1e} (allowed "
            f"{wanted.largest_head_error:.0e}) from those of the head; it was not kept."
        )
    return error
