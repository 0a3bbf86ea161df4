"""Files for LiteRT and ONNX Runtime: converts, runs and compares them."""

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
    """A kind of file, and how much its outputs may differ from the golden numbers.

    Attributes:
        file: Name in the model folder.
        title: Description for the manifest and the model card.
        bytes_per_weight: Size of a weight of the encoder.
        bytes_per_head_weight: Size of a weight of the head, and of a constant of the encoder.
        converters: Packages that write it, in addition to TensorFlow.
        runtime: Package that runs it.
        max_error: Largest error of an embedding, relative to the largest golden value; None if only the cosine is
            limited.
        min_cosine: Smallest cosine between the embedding of a golden clip and the golden embedding.
        max_head_error: Largest error of a tag's probability, compared with the head on the file's own embedding.
    """

    file: str
    title: str
    bytes_per_weight: int
    bytes_per_head_weight: int
    converters: tuple[str, ...]
    runtime: str
    max_error: float | None
    min_cosine: float
    max_head_error: float


LITERT, ONNX_RUNTIME = "ai-edge-litert", "onnxruntime"

TFLITE_FORMATS = {
    "fp32": RuntimeFormat("model.tflite", "LiteRT, float32", 4, 4, (), LITERT, 1e-3, 0.9999, 1e-3),
    # Weights are rounded by up to 2^-11. For an encoder after 300 steps on the demo corpus the error was 1.3e-3.
    "fp16": RuntimeFormat("model-fp16.tflite", "LiteRT, weights in float16", 2, 2, (), LITERT, 5e-3, 0.9999, 5e-3),
    "int8": RuntimeFormat(
        "model-int8.tflite", "LiteRT, convolutions in 8-bit integers", 1, 4, (), LITERT, None, 0.995, 1e-3
    ),
}
ONNX_FORMAT = RuntimeFormat("model.onnx", "ONNX, float32", 4, 4, ("tf2onnx", "onnx"), ONNX_RUNTIME, 1e-3, 0.9999, 1e-3)
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
    errors = _compare_embeddings(wanted, received["embedding"], golden.embedding)
    if golden.tags_of:
        errors["largest_head_error"] = _head_error(wanted, received["tags"], golden.tags_of(received["embedding"]))
        errors["largest_tag_error"] = float(np.max(np.abs(received["tags"] - expected["tags"])))
    return errors


def _compare_embeddings(wanted: RuntimeFormat, embedding: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    error = relative_error(embedding, expected)
    norms = np.linalg.norm(embedding, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = float(np.min(np.sum(embedding * expected, axis=1) / norms)) if norms.all() else 0.0
    is_near = wanted.max_error is None or error <= wanted.max_error
    if not (is_near and cosine >= wanted.min_cosine):
        raise ClmrError(
            f"{wanted.file} gives embeddings of the golden clips that differ by {error:.1e} of their largest value, "
            f"with a cosine of {cosine:.5f}; it was not kept."
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


# Time limit of a process. Converting the widest model to all formats takes some minutes on a slow machine.
_TIMEOUT_SECONDS = 1800
_ROOT = Path(__file__).parents[2]
# In addition to the weights: the graph, and a scale per channel for 8-bit integers.
_MAX_SURPLUS_RATIO, _MAX_SURPLUS_BYTES = 1.15, 2**17


def require_converters(kinds: Sequence[str]) -> None:
    """Raises UsageError if a package that is needed to write one of `kinds` is not installed."""
    for kind in kinds:
        absent = [package for package in FORMATS[kind].converters if version_of(package) is None]
        if absent:
            raise UsageError(
                f"{FORMATS[kind].file} needs {' and '.join(absent)}, which are not installed; run "
                f"`pip install {' '.join(absent)} -c constraints.txt`, or leave the file out."
            )


def kinds_in(folder: Path) -> tuple[str, ...]:
    """The keys of `FORMATS` whose files a model folder has."""
    return tuple(kind for kind, wanted in FORMATS.items() if (folder / wanted.file).is_file())


def add_runtime_files(folder: Path, kinds: Sequence[str]) -> None:
    """Converts the encoder of a model folder, with its head if it has one, and keeps the files that pass the check.

    The check runs the golden clips. Files are described in the manifest under "runtimes". If a runtime is not
    installed, its file is kept with a warning and described as not checked.

    Args:
        folder: Model folder; nothing else in it changes.
        kinds: Keys of `FORMATS`.

    Raises:
        ClmrError: If a conversion or a check failed; the other files have been written.
    """
    failures = []
    encoder = read_encoder(folder)
    num_weights = encoder.count_params()
    num_others = encoder.num_constants
    num_others += sum(part.size for part in read_head(folder).weights) if gives_tags(folder) else 0
    with tempfile.TemporaryDirectory(prefix=".runtimes.", dir=folder) as draft:
        reasons = _convert(folder, Path(draft), kinds)
        for kind in kinds:
            wanted = FORMATS[kind]
            try:
                if kind in reasons:
                    raise ClmrError(f"{wanted.file} could not be written: {reasons[kind]}.")
                min_num_bytes = num_weights * wanted.bytes_per_weight + num_others * wanted.bytes_per_head_weight
                description = _checked(Path(draft) / wanted.file, wanted, folder, min_num_bytes)
            except ClmrError as error:
                failures.append(str(error))
                continue
            if description["checked_with"] is None:
                logger.warning("%s was not checked, because %s is not installed.", wanted.file, wanted.runtime)
            put_in_place(Path(draft) / wanted.file, folder / wanted.file)
            manifest = read_manifest(folder)
            manifest.setdefault("runtimes", {})[wanted.file] = description
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
    """Writes the files to the folder `draft`; returns the reason for each that could not be made."""
    reasons, left = {}, list(kinds)
    # One process converts all files; if it dies on one of them, another process converts the rest.
    while left:
        reason = _run_in_process("converter", folder, draft, *left)
        left = [kind for kind in left if not (draft / FORMATS[kind].file).is_file()]
        if left:
            reasons[left.pop(0)] = reason or "the converter wrote nothing"
    return reasons


def _checked(file: Path, wanted: RuntimeFormat, folder: Path, min_num_bytes: int) -> dict[str, Any]:
    """The description of a file for the manifest; raises ClmrError if its size or its outputs are wrong."""
    num_bytes = file.stat().st_size
    # Some failed conversions omit the weights.
    if not 0.9 * min_num_bytes <= num_bytes <= _MAX_SURPLUS_RATIO * min_num_bytes + _MAX_SURPLUS_BYTES:
        raise ClmrError(
            f"{wanted.file} has {num_bytes} bytes, and its weights need about {min_num_bytes}; it was not kept."
        )
    return {
        "title": wanted.title,
        "num_bytes": num_bytes,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "outputs": list(golden_outputs(folder).outputs),
        **check_outputs(file, wanted, folder),
    }


def check_outputs(file: Path, wanted: RuntimeFormat, folder: Path) -> dict[str, Any]:
    """Runs a file on the golden clips of a model folder, and compares.

    Args:
        file: The file, in a folder for temporary files.
        wanted: Its format.
        folder: The model folder.

    Returns:
        For the manifest: "checked_with", which is None if the runtime is not installed, and the errors of `compare`.

    Raises:
        ClmrError: If it cannot be run, or outputs exceed a limit.
    """
    version = version_of(wanted.runtime)
    if version is None:
        return {"checked_with": None}
    outputs = file.with_suffix(".npz")
    reason = _run_in_process("runtime_process", file, folder / GOLDEN_FILE, outputs)
    if reason:
        raise ClmrError(f"{wanted.file} cannot be run by {wanted.runtime} ({reason}); it was not kept.")
    with np.load(outputs) as received:
        errors = compare(wanted, dict(received), golden_outputs(folder))
    return {"checked_with": f"{wanted.runtime} {version}", **errors}


def _run_in_process(module: str, *arguments: object) -> str | None:
    """Runs a module of this package in a separate process; returns the reason if it failed."""
    command = [sys.executable, "-m", f"clmr_tf.export.{module}", *map(str, arguments)]
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    options = {"env": {**os.environ, "PYTHONPATH": path}, "capture_output": True, "text": True, "errors": "replace"}
    try:
        done = subprocess.run(command, **options, check=False, timeout=_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"its process was stopped after {_TIMEOUT_SECONDS:g} seconds"
    if done.returncode == 0:
        return None
    last_line = next((line.strip() for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
    if done.returncode < 0:
        return f"its process was killed by {signal.Signals(-done.returncode).name}: {last_line}"
    return last_line
