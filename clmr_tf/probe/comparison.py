"""Differences between two results, from the same resampled songs or recordings for both."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clmr_tf.errors import UsageError
from clmr_tf.probe.scores import Score

PAIRED = "paired"
"""The entry of a result that `paired_scores` makes."""

# More digits would only make the files larger: intervals are printed with three.
_NUM_DIGITS = 7


def paired_scores(examples: str, scores: Mapping[str, Score]) -> dict[str, Any]:
    """The entry of a result that later results are compared with.

    The values of all resamplings are kept, because a difference is one encoder's value minus the other's in each
    resampling.

    Args:
        examples: Hash of everything that must be equal for a comparison: recordings, labels or views, resamplings.
        scores: Scores by the names of their metrics.

    Returns:
        JSON data: {"examples", "scores": {name: {"value", "resampled"}}}; a resampling that cannot be scored is None.
    """
    return {
        "examples": examples,
        "scores": {
            name: {
                "value": score.value,
                "resampled": [
                    round(value, _NUM_DIGITS) if np.isfinite(value) else None for value in score.resampled.tolist()
                ],
            }
            for name, score in scores.items()
        },
    }


def difference(result: Mapping[str, Any], other: Mapping[str, Any], file: str | None = None) -> dict[str, Any]:
    """An entry of "differences" in a result.

    Args:
        result: Has the entries "features" and "paired".
        other: The result to subtract, with the same entries and the same "examples".
        file: Where it was read from; None if it was computed together with `result`.

    Returns:
        JSON data: {"minus": {"file", "features", "head", "labels"; those that exist}, "scores": {name: {"minuend",
        "subtrahend", "mean", "interval"}}}, for the metrics that both have.
    """
    described = {name: other[name] for name in ("features", "head", "labels") if name in other}
    scores = {}
    for name, one in scores_of(result).items():
        if (subtrahend := scores_of(other).get(name)) is not None:
            scores[name] = {"minuend": one.value, "subtrahend": subtrahend.value, **(one - subtrahend).to_json()}
    return {"minus": {**({"file": file} if file else {}), **described}, "scores": scores}


def scores_of(result: Mapping[str, Any]) -> dict[str, Score]:
    """The scores of a result by metric, from its entry "paired"."""
    return {
        name: Score(score["value"], np.array(score["resampled"], np.float64))
        for name, score in result[PAIRED]["scores"].items()
    }


def read_compared(path: Path, preset: str) -> dict[str, Any]:
    """Reads a result for comparison with another one of the same preset.

    Raises:
        UsageError: If it is not a result of this preset, or does not contain what a comparison needs.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["preset"] != preset:
            raise ValueError(f"it was made with the preset {result['preset']}")
        if len({score.resampled.shape for score in scores_of(result).values()}) != 1:
            raise ValueError("its scores are inconsistent")
        _ = result["features"]["kind"], result["corpus"]["name"], result[PAIRED]["examples"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"it has no entry {error}" if isinstance(error, LookupError) else str(error)
        raise UsageError(
            f"--compare {path} cannot be subtracted from a result of the preset {preset} ({reason}); give one that "
            f"`python -m clmr_tf.probe --preset {preset}` wrote."
        ) from error
    return result


def require_same_examples(
    file: str, other: Mapping[str, Any], examples: str, corpus_name: str, task: str | None
) -> None:
    """Raises UsageError if a result that was read from `file` is for other examples than `examples`."""
    if other[PAIRED]["examples"] == examples:
        return
    theirs, ours = (
        f"the corpus {name}" + (f", task {task_name}" if task_name else "")
        for name, task_name in ((other["corpus"]["name"], other.get("task", {}).get("name")), (corpus_name, task))
    )
    raise UsageError(
        f"--compare {file} is for {theirs}, and this result for {ours}, with other recordings, labels or views; "
        "evaluate both on the same ones, and use the same --seed for retrieval."
    )
