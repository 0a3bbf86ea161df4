"""Adds files for other runtimes to a model folder: converted and run apart, compared, and only then put in place."""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.files import put_in_place
from clmr_tf.model_folder import GOLDEN_FILE, read_encoder, write_manifest
from clmr_tf.model_manifest import read_manifest
from clmr_tf.runtimes.comparison import compare, golden_outputs
from clmr_tf.runtimes.folded_head import read_folded_head
from clmr_tf.runtimes.formats import FORMATS, RuntimeFormat

logger = logging.getLogger(__name__)

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
    reason = _run_apart("execution", file, folder / GOLDEN_FILE, outputs)
    if reason:
        raise ClmrError(f"{wanted.file} cannot be run by {wanted.runtime} ({reason}); it was not kept.")
    with np.load(outputs) as received:
        return {**facts, "checked_with": f"{wanted.runtime} {version}", **compare(wanted, dict(received), golden)}


def _run_apart(module: str, *arguments: object) -> str | None:
    """Runs a module of this folder in a process of its own; returns why it failed, if it did."""
    command = [sys.executable, "-m", f"clmr_tf.runtimes.{module}", *map(str, arguments)]
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
