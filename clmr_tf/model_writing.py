"""Writes the folder of an exported model: whole or not at all, checked against its own golden numbers."""

import errno
import math
import os
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.files import put_in_place, refuse_pattern
from clmr_tf.head import Head
from clmr_tf.model_folder import (
    GOLDEN_FILE,
    HEAD_FILE,
    PROJECTOR_FILE,
    SAVED_MODEL,
    WEIGHTS_FILE,
    check_golden,
    write_manifest,
)
from clmr_tf.model_manifest import FORMAT_VERSION
from clmr_tf.model_replacing import beside, keep_files, names_in, require_replaceable, take_up_previous
from clmr_tf.models.sample_cnn import EMBEDDING_DIM, SampleCNN
from clmr_tf.serving.served_model import ServedModel
from clmr_tf.serving.warm_up import write_warm_up_requests


def write_model_folder(
    encoder: SampleCNN,
    folder: Path,
    facts: dict[str, Any],
    head: Head | None = None,
    projector: keras.Model | None = None,
) -> tuple[str, ...]:
    """Exports an encoder, reads it back in both forms, compares, and only then puts it in place.

    Args:
        encoder: Built, float32.
        folder: Where the model goes. A model folder that is there is replaced (`require_same_origin` says of which
            run it is); of the same weights its probes stay, and with the same head its files for other runtimes.
            Anything else is left alone.
        facts: For the manifest: "name", "training", "scores", "licence", "tag_names", "single_label", and "head" of one
            that was added.
        head: What was trained on labels, with the encoder or on its embeddings.
        projector: As `build_projector` makes it, float32; only conversions have one to hand on.

    Returns:
        The names of files that the model before had and this one has not.

    Raises:
        UsageError: If `folder` exists and is no model folder or holds files of others, or cannot be written.
        OSError: If the disk is full.
        ClmrError: If the model gives numbers that are not finite, or what was written gives others.
    """
    refuse_pattern(folder)
    draft, previous = beside(folder, "draft"), beside(folder, "previous")
    take_up_previous(folder)
    require_replaceable(folder)
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UsageError(f"{folder} cannot be written ({error.strerror}); choose another --out.") from error
    try:
        _require_space(draft, encoder)
        _write(encoder, draft, facts, head, projector)
        check_golden(draft)
        keep_files(folder, draft)
        lost = names_in(folder) - names_in(draft)
        shutil.rmtree(previous, ignore_errors=True)
        put_in_place(draft, folder, previous)
        shutil.rmtree(previous, ignore_errors=True)
        return tuple(sorted(lost))
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def golden_audio(clip_num_samples: int, sample_rate_hz: int) -> np.ndarray:
    """Two fixed clips that reach every frequency: a rising sweep and decaying bursts of noise.

    Returns:
        float32 [2, clip_num_samples] in [-1, 1], exact in 16 bits.
    """
    seconds = np.arange(clip_num_samples) / sample_rate_hz
    duration, low_hz, high_hz = seconds[-1], 40.0, 0.45 * sample_rate_hz
    octaves = np.log(high_hz / low_hz)
    sweep = 0.5 * np.sin(2 * np.pi * low_hz * duration / octaves * (np.exp(seconds / duration * octaves) - 1))
    noise = np.random.Generator(np.random.PCG64(1)).uniform(-0.8, 0.8, clip_num_samples)
    bursts = noise * np.exp(-8.0 * (seconds % 0.5))
    return (np.round(np.stack([sweep, bursts]) * 32767) / 32768).astype(np.float32)


def _require_space(folder: Path, encoder: SampleCNN) -> None:
    # The HDF5 library crashes the process when the disk fills up under it.
    needed = 2 * sum(math.prod(variable.shape) * 4 for variable in encoder.variables) + 4 * 2**20
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder.parent))


def _require_finite(encoder: SampleCNN, golden: dict[str, np.ndarray]) -> None:
    # The weights by themselves, since a ReLU makes zeros of NaN, and the embedding is finite again.
    numbers = {variable.path: variable.numpy() for variable in encoder.variables} | golden
    found = next((name for name, values in numbers.items() if not np.isfinite(values).all()), None)
    if found is not None:
        what = "numbers for the golden clips," if found in golden else "weights,"
        raise ClmrError(
            f"The model's {what} `{found}`, are not finite (NaN or infinite), so nothing was written; take another "
            "checkpoint, such as the best one, or one of a run whose loss stayed finite."
        )


def _write(
    encoder: SampleCNN, folder: Path, facts: dict[str, Any], head: Head | None, projector: keras.Model | None
) -> None:
    clip_num_samples, rate = encoder.clip_num_samples, encoder.sample_rate_hz
    encoder.save_weights(folder / WEIGHTS_FILE)
    archive = keras.export.ExportArchive()
    # Not told to track the encoder: the endpoints bring its variables, and each would be written twice.
    served = ServedModel(encoder, head, facts["tag_names"], facts["single_label"])
    for name, (function, specification) in served.signatures().items():
        archive.add_endpoint(name=name, fn=function, input_signature=specification)
    archive.write_out(str(folder / SAVED_MODEL), verbose=False)
    write_warm_up_requests(folder / SAVED_MODEL, facts["name"], clip_num_samples)
    audio = golden_audio(clip_num_samples, rate)
    embedding = encoder(tf.constant(audio), training=False).numpy()
    golden = {"audio": audio, "embedding": embedding}
    if head:
        head.save(folder / HEAD_FILE)
        golden["logits"] = head.logits(embedding)
    if projector:
        np.savez(folder / PROJECTOR_FILE, **dict(zip(("hidden", "projection"), projector.get_weights(), strict=True)))
        golden["projection"] = projector(tf.constant(embedding)).numpy()
    _require_finite(encoder, golden)
    np.savez_compressed(folder / GOLDEN_FILE, **golden)
    arguments = {"width": encoder.width, "sample_rate_hz": rate, "pooling": encoder.pooling}
    manifest = {
        "format_version": FORMAT_VERSION,
        "architecture": {"class": "SampleCNN", "arguments": arguments},
        "input": {"name": "audio", "clip_num_samples": clip_num_samples, "sample_rate_hz": rate, "channels": 1},
        "output": {"name": "embedding", "dimensions": EMBEDDING_DIM},
        **facts,
    }
    write_manifest(folder, manifest)
