"""Files for LiteRT and ONNX Runtime: converts, runs and compares them."""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.export.keras_model import read_encoder, weights_hash
from clmr_tf.export.model_card import write_manifest
from clmr_tf.export.model_folder import GOLDEN_FILE, WEIGHTS_HASH, gives_tags, read_head, read_manifest
from clmr_tf.export.runtime_formats import FORMATS, RuntimeFormat, compare, golden_outputs, version_of
from clmr_tf.files import put_in_place

logger = logging.getLogger(__name__)

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
            # Folders of older versions have none.
            manifest[WEIGHTS_HASH] = weights_hash(encoder)
            write_manifest(folder, manifest)
    if failures:
        raise ClmrError(f"{' '.join(failures)} Everything else is in {folder}.")


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
