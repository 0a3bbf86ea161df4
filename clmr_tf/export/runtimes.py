"""Files for LiteRT and ONNX Runtime: converts, runs and compares them."""

import hashlib
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
from clmr_tf.export.model_card import write_manifest
from clmr_tf.export.model_folder import GOLDEN_FILE, read_manifest
from clmr_tf.export.runtime_formats import FORMATS, RuntimeFormat, compare, golden_outputs, version_of
from clmr_tf.export.runtime_process import PROCESSOR_SECONDS
from clmr_tf.files import put_in_place

# Time limit of a process. Converting the widest model to all formats takes some minutes on a slow machine.
_TIMEOUT_SECONDS = 1800
_ROOT = Path(__file__).parents[2]


def require_packages(kinds: Sequence[str]) -> None:
    """Raises UsageError if a package that is needed to write or run the files of `kinds` is not installed."""
    for kind in kinds:
        wanted = FORMATS[kind]
        absent = [package for package in (*wanted.converters, wanted.runtime) if version_of(package) is None]
        if absent:
            raise UsageError(
                f"To write and check {wanted.file}, install {' and '.join(absent)} "
                f"(`pip install {' '.join(absent)} -c constraints.txt`), or leave the file out "
                f"({'no --onnx' if kind == 'onnx' else '--tflite none'})."
            )


def kinds_in(folder: Path) -> tuple[str, ...]:
    """The keys of `FORMATS` whose files a model folder has."""
    return tuple(kind for kind, wanted in FORMATS.items() if (folder / wanted.file).is_file())


def add_runtime_files(folder: Path, kinds: Sequence[str]) -> None:
    """Converts the encoder of a model folder, with its head if it has one, and keeps the files that pass the check.

    The check runs the golden clips. Files are described in the manifest under "runtimes".

    Args:
        folder: Model folder; nothing else in it changes.
        kinds: Keys of `FORMATS`.

    Raises:
        ClmrError: If a conversion or a check failed; the other files have been written.
    """
    failures = []
    with tempfile.TemporaryDirectory(prefix=".runtimes.", dir=folder) as draft:
        reasons = _convert(folder, Path(draft), kinds)
        for kind in kinds:
            wanted = FORMATS[kind]
            try:
                if kind in reasons:
                    raise ClmrError(f"{wanted.file} could not be written: {reasons[kind]}.")
                description = _checked(Path(draft) / wanted.file, wanted, folder)
            except ClmrError as error:
                failures.append(str(error))
                continue
            put_in_place(Path(draft) / wanted.file, folder / wanted.file)
            manifest = read_manifest(folder)
            manifest.setdefault("runtimes", {})[wanted.file] = description
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


def _checked(file: Path, wanted: RuntimeFormat, folder: Path) -> dict[str, Any]:
    """The description of a file for the manifest; raises ClmrError if its outputs are wrong."""
    return {
        "title": wanted.title,
        "num_bytes": file.stat().st_size,
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
        For the manifest: "checked_with", the runtime and its version, the processor time of one clip, and the errors of
        `compare`.

    Raises:
        ClmrError: If it cannot be run, or outputs exceed a limit.
    """
    outputs = file.with_suffix(".npz")
    reason = _run_in_process("runtime_process", file, folder / GOLDEN_FILE, outputs)
    if reason:
        raise ClmrError(f"{wanted.file} cannot be run by {wanted.runtime} ({reason}); it was not kept.")
    with np.load(outputs) as arrays:
        received = dict(arrays)
    seconds = float(received.pop(PROCESSOR_SECONDS))
    errors = compare(wanted, received, golden_outputs(folder))
    return {"checked_with": f"{wanted.runtime} {version_of(wanted.runtime)}", PROCESSOR_SECONDS: seconds, **errors}


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
