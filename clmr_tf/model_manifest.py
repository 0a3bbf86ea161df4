"""The manifest of a model folder: what the model is, how it came about and what it scored."""

import json
from pathlib import Path
from typing import Any

from clmr_tf.errors import UsageError

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"

_ADVICE = "give the folder that `python -m clmr_tf.export` wrote"
# Prepared corpora have a manifest.json of a format version, too.
_PARTS_OF_MODELS = {"architecture.arguments": dict, "training.step": int, "scores": dict, "tag_names": list}
PARTS_OF_CARDS = {
    **{"name": str, "licence": str, "architecture.class": str, "output.dimensions": int},
    **{"input.clip_num_samples": int, "input.sample_rate_hz": int},
}
"""What else the model card tells."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a model folder, with at least architecture, training step, scores and `tag_names` in it.

    Raises:
        UsageError: If there is none that this program can read.
    """
    path = folder / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} is not a model folder: {path} cannot be read; {_ADVICE}.") from error
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        raise UsageError(f"{path} is not of format version {FORMAT_VERSION}, which this program reads; {_ADVICE}.")
    manifest.setdefault("tag_names", [])
    require_parts(folder, manifest, _PARTS_OF_MODELS)
    return manifest


def require_parts(folder: Path, manifest: dict[str, Any], parts: dict[str, type]) -> None:
    """Raises UsageError if a manifest lacks one of `parts`, such as "training.step", or it is of another type."""

    def part(names: str) -> Any:
        found = manifest
        for name in names.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        return found

    lacking = [names for names, kind in parts.items() if not isinstance(part(names), kind)]
    if lacking:
        raise UsageError(
            f"{folder} is not a model folder: {folder / MANIFEST_FILE} lacks `{'`, `'.join(lacking)}`; {_ADVICE}."
        )
