"""Writes model folders, and decides which ones an export may replace."""

import contextlib
import dataclasses
import errno
import json
import logging
import math
import os
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.export.keras_model import check_golden, weights_hash
from clmr_tf.export.model_card import write_manifest
from clmr_tf.export.model_folder import (
    CARD_FILE,
    FORMAT_VERSION,
    GOLDEN_FILE,
    HEAD_FILE,
    MANIFEST_FILE,
    PROJECTOR_FILE,
    SAVED_MODEL,
    WEB_FOLDER,
    WEIGHTS_FILE,
    WEIGHTS_HASH,
    is_same_model,
    read_golden,
    read_manifest,
)
from clmr_tf.export.serving import ServedModel, write_warm_up_requests
from clmr_tf.files import UnreadableArraysError, put_in_place, refuse_pattern, writable_or_usage_error
from clmr_tf.models import EMBEDDING_DIM
from clmr_tf.models.clip_encoder import ClipEncoder
from clmr_tf.models.encoders import DEFAULT_ENCODER, architecture_of
from clmr_tf.models.heads import Head, head_file_of
from clmr_tf.models.taught_tags import TAUGHT_TAGS_SUFFIX, read_taught_tags

logger = logging.getLogger(__name__)

_RESULTS = ("retrieval-*.json", "evaluation-*.json", "evaluation-*.npz")
_MADE_BY_EVERY_EXPORT = frozenset({MANIFEST_FILE, WEIGHTS_FILE, SAVED_MODEL, GOLDEN_FILE})
# What an export may replace; the last ones remain after a killed write.
_OWN_FILES = (
    MANIFEST_FILE,
    WEIGHTS_FILE,
    WEIGHTS_HASH,
    SAVED_MODEL,
    HEAD_FILE,
    PROJECTOR_FILE,
    GOLDEN_FILE,
    CARD_FILE,
    "model*.tflite",
    "model.onnx",
    WEB_FOLDER,
    *_RESULTS,
    ".*.json.*",
    f".{CARD_FILE}.*",
    ".runtimes.*",
    f".{WEB_FOLDER}.*",
)


def require_same_origin(folder: Path, training: dict[str, Any]) -> None:
    """Checks that an export does not replace the model of another run or checkpoint; call it before computing anything.

    Args:
        folder: Where the model will be written.
        training: "training" of the new model's manifest.

    Raises:
        UsageError: If the folder holds a model of another or unknown origin, or is not a model folder.
    """
    restore_previous(folder)
    require_replaceable(folder)
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        origin = _origin(read_manifest(folder)["training"])
    except UsageError as error:
        raise UsageError(
            f"{folder} contains a model of unknown origin ({error}); choose another --out, or use --overwrite to "
            "replace it."
        ) from error
    if origin is None or origin != _origin(training):
        raise UsageError(
            f"{folder} contains the model of another run or checkpoint; choose another --out, or use --overwrite to "
            "replace it."
        )


def _origin(training: dict[str, Any]) -> Any:
    """Identifies a run or checkpoint; None if unknown."""
    with contextlib.suppress(KeyError, IndexError, TypeError):
        return training["converted_from"]["checkpoint"]["sha256"]
    with contextlib.suppress(KeyError, IndexError, TypeError):
        # The time alone is not enough: two runs with different seeds may start in the same second.
        run, settings = training["run"], training["config"]
        encoder = settings.get("encoder", DEFAULT_ENCODER)
        return run["starts"][0], settings["seed"], settings["width"], encoder
    return None


def beside(folder: Path, state: str) -> Path:
    """Temporary path of a model while it is written or replaced; `state` is "draft" or "previous"."""
    return folder.with_name(f".{folder.name}.{state}")


def restore_previous(folder: Path) -> None:
    """Restores the previous model after an export was killed between its last two steps."""
    previous = beside(folder, "previous")
    if previous.is_dir() and not folder.exists():
        previous.rename(folder)


def names_in(folder: Path) -> set[str]:
    """The files of a model folder, if it exists, without temporary files."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.exists() else set()


def require_replaceable(folder: Path) -> None:
    """Raises UsageError if a folder exists and is not a model folder, or contains other files."""
    if not folder.exists():
        return
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else None
    # Prepared corpora have a manifest.json too, and a file of a damaged model may be missing.
    if names is None or (names and len(_MADE_BY_EVERY_EXPORT.difference(names)) > 1):
        raise UsageError(f"{folder} exists and is not a model folder; choose another --out.")
    foreign = [name for name in names if not any(fnmatch(name, own) for own in _OWN_FILES)]
    if foreign:
        raise UsageError(
            f"{folder} contains {', '.join(foreign)}, which an export would delete with the old model; "
            "move it away, or choose another --out."
        )


def keep_files(folder: Path, draft: Path) -> None:
    """Copies files of the previous model that are still valid.

    If the weights are equal, these are probe results and their scores; if the head is equal too, also the files for
    other runtimes and the web page.

    Args:
        folder: Previous model, if any.
        draft: New model.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        old, before = read_golden(folder), read_manifest(folder)
    except UsageError as error:
        logger.warning("No files of the previous model are kept: %s", error)
        return
    new, manifest = read_golden(draft), read_manifest(draft)
    if not np.array_equal(old["embedding"], new["embedding"]):
        return
    is_same = old.keys() == new.keys() and all(np.array_equal(old[name], new[name]) for name in new)
    # These decide how logits become tags.
    is_same = is_same and all(before.get(name) == manifest.get(name) for name in ("tag_names", "single_label"))
    runtimes = before.get("runtimes", {}) if is_same else {}
    runtimes = {name: one for name, one in runtimes.items() if (folder / name).is_file()}
    for path in folder.iterdir():
        if path.name in runtimes or any(fnmatch(path.name, pattern) for pattern in _RESULTS):
            shutil.copyfile(path, draft / path.name)
    manifest["scores"] = {**before["scores"], **manifest["scores"]}
    if runtimes:
        manifest["runtimes"] = runtimes
    if is_same and "web" in before and (folder / WEB_FOLDER).is_dir():
        shutil.copytree(folder / WEB_FOLDER, draft / WEB_FOLDER)
        manifest["web"] = before["web"]
    write_manifest(draft, manifest)


def write_model_folder(
    encoder: ClipEncoder,
    folder: Path,
    manifest_entries: dict[str, Any],
    head: Head | None = None,
    projector: keras.Model | None = None,
) -> tuple[str, ...]:
    """Exports a model to a draft folder, checks its golden numbers, and only then puts it in place.

    Args:
        encoder: Built, float32.
        folder: Where the model is written. An existing model folder is replaced, see `require_same_origin` and
            `keep_files`.
        manifest_entries: "name", "training", "scores", "licence", "tag_names", "single_label", and "head" if a probe
            trained it.
        head: A head that was trained with labels, together with the encoder or on its embeddings.
        projector: From `build_projector`, float32; only converted models have one.

    Returns:
        Names of the files that only the previous model had.

    Raises:
        UsageError: If `folder` exists and is not a model folder, contains other files, or cannot be written.
        OSError: If the disk is full.
        ClmrError: If weights or outputs are not finite, or the written model gives other outputs.
    """
    refuse_pattern(folder)
    draft, previous = beside(folder, "draft"), beside(folder, "previous")
    restore_previous(folder)
    require_replaceable(folder)
    shutil.rmtree(draft, ignore_errors=True)
    with writable_or_usage_error(folder, "choose another --out"):
        draft.mkdir(parents=True)
    try:
        _require_space(draft, encoder)
        _write(encoder, draft, manifest_entries, head, projector)
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
    """Two fixed clips that cover all frequencies: a rising sweep and decaying bursts of noise.

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


def _require_space(folder: Path, encoder: ClipEncoder) -> None:
    # HDF5 crashes the process if the disk fills up.
    needed = 2 * sum(math.prod(variable.shape) * 4 for variable in encoder.variables) + 4 * 2**20
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder.parent))


def _require_finite(encoder: ClipEncoder, golden: dict[str, np.ndarray]) -> None:
    # The weights are checked too, because ReLU turns NaN into 0, which can make embeddings finite again.
    numbers = {variable.path: variable.numpy() for variable in encoder.variables} | golden
    found = next((name for name, values in numbers.items() if not np.isfinite(values).all()), None)
    if found is not None:
        what = "numbers for the golden clips," if found in golden else "weights,"
        raise ClmrError(
            f"The model's {what} `{found}`, are not finite (NaN or infinite), so nothing was written; use another "
            "checkpoint, such as the best one, or one of a run whose loss stayed finite."
        )


def _write(
    encoder: ClipEncoder,
    folder: Path,
    manifest_entries: dict[str, Any],
    head: Head | None,
    projector: keras.Model | None,
) -> None:
    clip_num_samples, rate = encoder.clip_num_samples, encoder.sample_rate_hz
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
    encoder.save_weights(folder / WEIGHTS_FILE)
    archive = keras.export.ExportArchive()
    # The endpoints track the variables; if the archive did too, each would be written twice.
    served = ServedModel(encoder, head, manifest_entries["tag_names"], manifest_entries["single_label"])
    for name, (function, specification) in served.signatures().items():
        archive.add_endpoint(name=name, fn=function, input_signature=specification)
    archive.write_out(str(folder / SAVED_MODEL), verbose=False)
    write_warm_up_requests(folder / SAVED_MODEL, manifest_entries["name"], clip_num_samples)
    manifest = {
        "format_version": FORMAT_VERSION,
        "architecture": {"class": type(encoder).__name__, "arguments": architecture_of(encoder)},
        "input": {"name": "audio", "clip_num_samples": clip_num_samples, "sample_rate_hz": rate, "channels": 1},
        "output": {"name": "embedding", "dimensions": EMBEDDING_DIM},
        WEIGHTS_HASH: weights_hash(encoder),
        **manifest_entries,
    }
    write_manifest(folder, manifest)


# Entries of a probe's result that describe how the head was trained.
_RESULT_ENTRIES = ("preset", "protocol", "labels", "seed", "fit")


@dataclasses.dataclass(frozen=True)
class ProbeHead:
    """A head trained by a probe, or with `python -m clmr_tf.teach`.

    Attributes:
        head: From embeddings to logits.
        tag_names: Names of the logits.
        single_label: Softmax instead of sigmoids.
        origin: For the manifest: result file, corpus, how the head was trained, and its test scores; or the file of
            taught tags, and the number of answers and the precision of each tag.
    """

    head: Head
    tag_names: list[str]
    single_label: bool
    origin: dict[str, Any]

    @property
    def manifest_entries(self) -> dict[str, Any]:
        """Entries for the manifest of a model with this head."""
        return {"tag_names": self.tag_names, "single_label": self.single_label, "head": self.origin}


def read_added_head(file: Path, encoder: ClipEncoder) -> ProbeHead:
    """Reads the head of a probe, or one of all taught tags.

    Args:
        file: As for `read_probe_head`, or TABLE.tags.json of `python -m clmr_tf.teach`.
        encoder: The encoder.

    Raises:
        UsageError: If it is neither, or belongs to another encoder.
    """
    if not file.name.endswith(TAUGHT_TAGS_SUFFIX):
        return read_probe_head(file, encoder)
    taught = read_taught_tags(file)
    if not is_same_model(taught.model_hash, weights_hash(encoder)):
        raise UsageError(f"The tags of {file} were taught with other weights; export the model of their table.")
    if not taught.names:
        raise UsageError(f"{file} has no tag with a song that it fits; mark some with `python -m clmr_tf.teach`.")
    if taught.head.num_features != EMBEDDING_DIM:
        raise UsageError(f"The heads of {file} do not fit an embedding; teach the tags again.")
    described = {}
    for name in taught.names:
        tag = taught.tags[name]
        answers = [mark.answer for mark in tag.marks]
        precision = tag.precision and dataclasses.asdict(tag.precision)
        described[name] = {"yes": answers.count("yes"), "no": answers.count("no"), "precision": precision}
    return ProbeHead(taught.head, list(taught.names), False, {"result": file.name, "taught": described})


def read_probe_head(result_file: Path, encoder: ClipEncoder) -> ProbeHead:
    """Reads a head that a probe trained on the embeddings of an encoder.

    Args:
        result_file: evaluation-....json of `python -m clmr_tf.probe`, with its .npz next to it.
        encoder: The encoder.

    Raises:
        UsageError: If it is not such a result, belongs to another encoder, or the head cannot be read.
    """
    advice = "give the evaluation-....json of `python -m clmr_tf.probe --preset released --model` this model"
    try:
        result = json.loads(result_file.read_text(encoding="utf-8"))
        kind, single_label = result["features"]["kind"], result["single_label"]
        corpus = {name: result["corpus"][name] for name in ("name", "fingerprint", "tag_names")}
        tag_names, hash_of_features = corpus.pop("tag_names"), result["features"].get("model_hash")
        origin = {"result": result_file.name, "corpus": corpus, "test": result["scores"]["test"]}
        origin |= {name: result[name] for name in _RESULT_ENTRIES}
        origin |= {"task": result["task"]} if "task" in result else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{result_file} is not the result of a probe; {advice}.") from error
    if kind != "model" or hash_of_features != weights_hash(encoder):
        raise UsageError(f"The head of {result_file} was trained on features of {kind} with other weights; {advice}.")
    path = head_file_of(result_file)
    try:
        head = Head.load(path)
    except UnreadableArraysError as error:
        raise UsageError(f"The head {path} cannot be read ({error}); run the probe again.") from error
    if (head.num_features, head.num_outputs) != (EMBEDDING_DIM, len(tag_names)):
        raise UsageError(f"The head {path} does not belong to {result_file}; run the probe again.")
    return ProbeHead(head, tag_names, single_label, origin)
