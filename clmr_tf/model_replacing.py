"""What becomes of the model folder in whose place a new one is put."""

import contextlib
import logging
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from clmr_tf.errors import UsageError
from clmr_tf.model_folder import (
    CARD_FILE,
    GOLDEN_FILE,
    HEAD_FILE,
    PROJECTOR_FILE,
    SAVED_MODEL,
    WEIGHTS_FILE,
    read_golden,
    write_manifest,
)
from clmr_tf.model_manifest import MANIFEST_FILE, read_manifest

logger = logging.getLogger(__name__)

_RESULTS = ("probe-*.json", "evaluation-*.json", "evaluation-*.npz")
_MADE_BY_EVERY_EXPORT = frozenset({MANIFEST_FILE, WEIGHTS_FILE, SAVED_MODEL, GOLDEN_FILE})
# What an export may replace; the last are what writing them left when killed.
_OWN_FILES = (
    MANIFEST_FILE,
    WEIGHTS_FILE,
    SAVED_MODEL,
    HEAD_FILE,
    PROJECTOR_FILE,
    GOLDEN_FILE,
    CARD_FILE,
    "model*.tflite",
    "model.onnx",
    *_RESULTS,
    ".*.json.*",
    f".{CARD_FILE}.*",
    ".runtimes.*",
)


def require_same_origin(folder: Path, training: dict[str, Any]) -> None:
    """Refuses to replace the model of another run or checkpoint; to be asked before anything is computed.

    Args:
        folder: Where the model shall go.
        training: Of the new model, as in the manifest: with the record of its run, or with what it is converted from.

    Raises:
        UsageError: If there is a model of another origin, or of one that cannot be read, or what is no model folder.
    """
    take_up_previous(folder)
    require_replaceable(folder)
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        origin = _origin(read_manifest(folder)["training"])
    except UsageError as error:
        raise UsageError(
            f"{folder} holds a model whose origin cannot be told ({error}); give another --out, or --overwrite to "
            "replace it."
        ) from error
    if origin is None or origin != _origin(training):
        raise UsageError(
            f"{folder} holds the model of another run or checkpoint; give another --out, or --overwrite to replace it."
        )


def _origin(training: dict[str, Any]) -> Any:
    """What tells one run or checkpoint from others; None where nothing does."""
    with contextlib.suppress(KeyError, IndexError, TypeError):
        return training["converted_from"]["checkpoint"]["sha256"]
    with contextlib.suppress(KeyError, IndexError, TypeError):
        # Two may be started in one second, to learn the same with other seeds.
        run, settings = training["run"], training["config"]
        return run["starts"][0], settings["seed"], settings["width"]
    return None


def beside(folder: Path, state: str) -> Path:
    """Where a model that is written, or replaced, lies for a moment; `state` is "draft" or "previous"."""
    return folder.with_name(f".{folder.name}.{state}")


def take_up_previous(folder: Path) -> None:
    """Brings back the model before, where an export was killed between its last two steps."""
    previous = beside(folder, "previous")
    if previous.is_dir() and not folder.exists():
        previous.rename(folder)


def names_in(folder: Path) -> set[str]:
    """The files of a model folder, if there is one, without what a kill has left."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.exists() else set()


def require_replaceable(folder: Path) -> None:
    """Raises UsageError if a folder is there that is no model folder, or holds files of others."""
    if not folder.exists():
        return
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else None
    # A manifest.json alone is no proof, since prepared corpora have one, too; but a damaged model may have lost a file.
    if names is None or (names and len(_MADE_BY_EVERY_EXPORT.difference(names)) > 1):
        raise UsageError(f"{folder} exists and is not a model folder; choose another --out.")
    foreign = [name for name in names if not any(fnmatch(name, own) for own in _OWN_FILES)]
    if foreign:
        raise UsageError(
            f"{folder} holds {', '.join(foreign)}, which an export would delete with the old model; "
            "move it away, or choose another --out."
        )


def keep_files(folder: Path, draft: Path) -> None:
    """Takes over what a model that is replaced has beside its weights, where it belongs to the new one as well.

    Of the same weights these are the probes with what they scored, and with the same head the files for other runtimes.

    Args:
        folder: Of the model before, if there is one.
        draft: Of the new one.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        old, before = read_golden(folder), read_manifest(folder)
    except UsageError as error:
        logger.warning("Nothing is taken over from the model that is replaced: %s", error)
        return
    new, manifest = read_golden(draft), read_manifest(draft)
    if not np.array_equal(old["embedding"], new["embedding"]):
        return
    is_same = old.keys() == new.keys() and all(np.array_equal(old[name], new[name]) for name in new)
    # What makes tags of the logits.
    is_same = is_same and all(before.get(name) == manifest.get(name) for name in ("tag_names", "single_label"))
    runtimes = before.get("runtimes", {}) if is_same else {}
    runtimes = {name: facts for name, facts in runtimes.items() if (folder / name).is_file()}
    for path in folder.iterdir():
        if path.name in runtimes or any(fnmatch(path.name, pattern) for pattern in _RESULTS):
            shutil.copyfile(path, draft / path.name)
    manifest["scores"] = {**before["scores"], **manifest["scores"]}
    write_manifest(draft, {**manifest, **({"runtimes": runtimes} if runtimes else {})})
