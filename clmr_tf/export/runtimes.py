"""Models for LiteRT and ONNX Runtime: made, run and compared."""

import dataclasses
import hashlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.export.folded_network import read_folded_head
from clmr_tf.export.model_folder import (
    GOLDEN_FILE,
    gives_tags,
    read_encoder,
    read_golden,
    read_head,
    read_manifest,
    relative_error,
    write_manifest,
)
from clmr_tf.files import put_in_place
from clmr_tf.models.heads import probabilities

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RuntimeFormat:
    """One kind of file.

    Attributes:
        file: Its name in the model folder.
        title: What it is, for the manifest and the model card.
        bytes_per_weight: Size of a weight of the encoder in it.
        bytes_per_head_weight: Size of a weight of the head.
        converters: Packages that write it, beside TensorFlow.
        runtime: Package that runs it.
        largest_error: Of its embedding, relative to the largest golden value; None where only the cosine counts.
        least_cosine: Of the embedding of every golden clip to the golden one.
        largest_head_error: Of the probability of any tag, to what the head gives for the embedding of the same file.
    """

    file: str
    title: str
    bytes_per_weight: int
    bytes_per_head_weight: int
    converters: tuple[str, ...]
    runtime: str
    largest_error: float | None
    least_cosine: float
    largest_head_error: float


LITERT, ONNX_RUNTIME = "ai-edge-litert", "onnxruntime"

TFLITE_FORMATS = {
    "fp32": RuntimeFormat("model.tflite", "LiteRT, float32", 4, 4, (), LITERT, 1e-3, 0.9999, 1e-3),
    # Every weight is off by up to 2^-11; in the encoder of 300 steps on the demo corpus that came to 1.3e-3 together.
    "fp16": RuntimeFormat("model-fp16.tflite", "LiteRT, weights in float16", 2, 2, (), LITERT, 5e-3, 0.9999, 5e-3),
    "int8": RuntimeFormat(
        "model-int8.tflite", "LiteRT, convolutions in 8-bit integers", 1, 4, (), LITERT, None, 0.995, 1e-3
    ),
}
ONNX_FORMAT = RuntimeFormat("model.onnx", "ONNX, float32", 4, 4, ("tf2onnx", "onnx"), ONNX_RUNTIME, 1e-3, 0.9999, 1e-3)
FORMATS = {**TFLITE_FORMATS, "onnx": ONNX_FORMAT}
"""Every kind of file by the word that asks for it."""


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


# Of one process. Converting the widest model to all formats takes some minutes on a slow machine.
_TIMEOUT_SECONDS = 1800
_ROOT = Path(__file__).parents[2]
# Beside the weights: the graph, and for 8-bit integers the scales of every channel.
_LARGEST_SURPLUS, _LARGEST_SURPLUS_BYTES = 1.15, 2**17


def require_converters(kinds: Sequence[str]) -> None:
    """Raises UsageError if a package is absent that writing one of `kinds` needs."""
    for kind in kinds:
        absent = [package for package in FORMATS[kind].converters if version_of(package) is None]
        if absent:
            raise UsageError(
                f"{FORMATS[kind].file} needs {' and '.join(absent)}, which are not installed; run "
                f"`pip install {' '.join(absent)} -c constraints.txt`, or leave that file out."
            )


def kinds_in(folder: Path) -> tuple[str, ...]:
    """The words of `FORMATS` whose files a model folder holds."""
    return tuple(kind for kind, wanted in FORMATS.items() if (folder / wanted.file).is_file())


def add_runtime_files(folder: Path, kinds: Sequence[str]) -> None:
    """Converts the encoder of a model folder, runs the golden clips through every file, and keeps those that agree.

    With the encoder goes the head, if the model has one.

    What is kept is described in the manifest under "runtimes". A file whose runtime is not installed is kept as well,
    with a warning, and described as not checked.

    Args:
        folder: A model folder; where a conversion fails, the rest of it stays as it is.
        kinds: Words of `FORMATS`.

    Raises:
        ClmrError: If a conversion failed or a file did not agree, after all others have been dealt with.
    """
    failures = []
    num_weights, head = read_encoder(folder).count_params(), read_folded_head(folder)
    with tempfile.TemporaryDirectory(prefix=".runtimes.", dir=folder) as draft:
        reasons = _convert(folder, Path(draft), kinds)
        for kind in kinds:
            wanted = FORMATS[kind]
            try:
                if kind in reasons:
                    raise ClmrError(f"{wanted.file} could not be made: {reasons[kind]}.")
                least = num_weights * wanted.bytes_per_weight
                if head:
                    least += head.num_weights * wanted.bytes_per_head_weight
                facts = _checked(Path(draft) / wanted.file, wanted, folder, least)
            except ClmrError as error:
                failures.append(str(error))
                continue
            if facts["checked_with"] is None:
                logger.warning("%s is not checked, since %s is not installed.", wanted.file, wanted.runtime)
            put_in_place(Path(draft) / wanted.file, folder / wanted.file)
            manifest = read_manifest(folder)
            manifest.setdefault("runtimes", {})[wanted.file] = facts
            write_manifest(folder, manifest)
    if failures:
        raise ClmrError(f"{' '.join(failures)} Everything else is in {folder}.")


def version_of(package: str) -> str | None:
    """Version of an installed package, None if it is absent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _convert(folder: Path, draft: Path, kinds: Sequence[str]) -> dict[str, str]:
    """Writes the files into `draft`; returns why, of those that could not be."""
    reasons, left = {}, list(kinds)
    # One process does all of them unless it dies on one; the next one goes on behind that.
    while left:
        reason = _run_apart("converter", folder, draft, *left)
        left = [kind for kind in left if not (draft / FORMATS[kind].file).is_file()]
        if left:
            reasons[left.pop(0)] = reason or "the converter wrote nothing"
    return reasons


def _checked(file: Path, wanted: RuntimeFormat, folder: Path, least: int) -> dict[str, Any]:
    """What is known of a file whose weights take `least` bytes, for the manifest; ClmrError if it is not right."""
    num_bytes = file.stat().st_size
    # Some failed conversions leave the weights out.
    if not 0.9 * least <= num_bytes <= _LARGEST_SURPLUS * least + _LARGEST_SURPLUS_BYTES:
        raise ClmrError(f"{wanted.file} has {num_bytes} bytes, and its weights take about {least}; it was not kept.")
    golden = golden_outputs(folder)
    facts: dict[str, Any] = {
        "title": wanted.title,
        "num_bytes": num_bytes,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "outputs": list(golden.outputs),
        "checked_with": None,
    }
    version = version_of(wanted.runtime)
    if version is None:
        return facts
    outputs = file.with_suffix(".npz")
    reason = _run_apart("runtime_process", file, folder / GOLDEN_FILE, outputs)
    if reason:
        raise ClmrError(f"{wanted.file} cannot be run by {wanted.runtime} ({reason}); it was not kept.")
    with np.load(outputs) as received:
        return {**facts, "checked_with": f"{wanted.runtime} {version}", **compare(wanted, dict(received), golden)}


def _run_apart(module: str, *arguments: object) -> str | None:
    """Runs a module of this folder in a process of its own; returns why it failed, if it did."""
    command = [sys.executable, "-m", f"clmr_tf.export.{module}", *map(str, arguments)]
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    options = {"env": {**os.environ, "PYTHONPATH": path}, "capture_output": True, "text": True, "errors": "replace"}
    try:
        done = subprocess.run(command, **options, check=False, timeout=_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"its process was ended after {_TIMEOUT_SECONDS:g} seconds"
    if done.returncode == 0:
        return None
    last_words = next((line.strip() for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
    if done.returncode < 0:
        return f"its process was ended by {signal.Signals(-done.returncode).name}: {last_words}"
    return last_words
