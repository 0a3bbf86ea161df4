"""Encoders that run in LiteRT or ONNX Runtime, from the files of a model folder, without TensorFlow."""

import hashlib
import threading
from pathlib import Path

import numpy as np

from clmr_tf.errors import UsageError
from clmr_tf.export.model_folder import (
    PARTS_OF_CARDS,
    WEIGHTS_HASH,
    check_head,
    read_golden,
    read_manifest,
    require_clip,
    require_finite,
    require_parts,
)
from clmr_tf.export.runtime_formats import FORMATS, ONNX_FORMAT, RuntimeFormat, compare_embeddings, version_of
from clmr_tf.export.runtime_process import Run, load
from clmr_tf.hardware import num_usable_cores
from clmr_tf.inference.encoder import RUNTIMES, Encoder, tagger_of_model
from clmr_tf.quiet_start import hidden_standard_error


def load_exported_encoder(folder: Path, runtime: str, num_threads: int | None = None) -> Encoder:
    """Loads a model folder, and checks the runtime's file and the head against the golden numbers.

    Args:
        folder: Written by `python -m clmr_tf.export`.
        runtime: A key of `RUNTIMES` that has a file.
        num_threads: Default: one per core.

    Raises:
        UsageError: If the folder is not a model folder, has no such file or cannot be read, or the runtime is not
            installed.
        ClmrError: If outputs differ from the golden numbers.
    """
    manifest = read_manifest(folder)
    require_parts(folder, manifest, PARTS_OF_CARDS)
    clip_num_samples = manifest["input"]["clip_num_samples"]
    golden = read_golden(folder)
    require_clip(folder, golden, clip_num_samples)
    kind = RUNTIMES[runtime]
    run = _checked(folder, runtime, FORMATS[kind], manifest.get("runtimes", {}), golden, num_threads)
    check_head(folder, golden)
    # LiteRT runs one call at a time.
    lock = threading.Lock()

    def encode(audio: np.ndarray) -> np.ndarray:
        # Window by window: larger batches are slower, because their activations do not fit into the cache.
        with lock:
            return np.concatenate([run(window[np.newaxis])["embedding"] for window in audio])

    return Encoder(
        encode,
        clip_num_samples,
        manifest["input"]["sample_rate_hz"],
        lambda: manifest[WEIGHTS_HASH] + ("-int8" if kind == "int8" else ""),
        runtime=runtime,
        tagger=tagger_of_model(folder),
    )


def _checked(
    folder: Path,
    runtime: str,
    wanted: RuntimeFormat,
    described: dict[str, dict[str, str]],
    golden: dict[str, np.ndarray],
    num_threads: int | None,
) -> Run:
    file = folder / wanted.file
    if wanted.file not in described or not file.is_file():
        option = "--onnx" if wanted is ONNX_FORMAT else f"--tflite {RUNTIMES[runtime]}"
        raise UsageError(
            f"{folder} has no {wanted.file}, which the runtime {runtime} needs; add it with `python -m clmr_tf.export "
            f"--model {folder} {option}`, or use another runtime."
        )
    if version_of(wanted.runtime) is None:
        raise UsageError(
            f"The runtime {runtime} needs the package {wanted.runtime}, which is not installed; run `pip install "
            f"{wanted.runtime}`, or use another runtime."
        )
    # Native code should not read a damaged file.
    if hashlib.sha256(file.read_bytes()).hexdigest() != described[wanted.file].get("sha256"):
        raise UsageError(f"{file} is damaged: its SHA-256 is not that in the manifest; export the model again.")
    try:
        # LiteRT reports there which delegate it uses.
        with hidden_standard_error():
            run = load(file, num_threads or num_usable_cores())
            embedding = run(golden["audio"])["embedding"]
        if embedding.shape != golden["embedding"].shape:
            raise ValueError(f"it gives embeddings of shape {list(embedding.shape)}")
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(f"{file} cannot be run by {wanted.runtime} ({reason}); export the model again.") from error
    require_finite(file, "embeddings", embedding)
    compare_embeddings(wanted, embedding, golden["embedding"], "export the model again")
    return run
