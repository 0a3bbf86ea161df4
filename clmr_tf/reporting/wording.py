"""What results are called in tables, curves and bars, and what their numbers look like."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from clmr_tf.evaluation.protocols import PROTOCOLS
from clmr_tf.reporting.result_files import Result

METRIC_NAMES = {"accuracy": "accuracy", "roc_auc": "ROC-AUC", "average_precision": "PR-AUC"}
HEAD_NAMES = {"linear": "linear", "mlp": "MLP", "grid": "grid"}
NOTHING = "-"

_KIND_NAMES = {"mel": "mel statistics", "untrained": "untrained SampleCNN", "musicnn": "musicnn features"}
_OWN_HEAD_NAMES = {
    "supervised": "SampleCNN supervised",
    "finetune": "CLMR fine-tuned",
    "converted": "CLMR converted, its own head",
}


def name_of(result: Result) -> str:
    """What was evaluated: the kind of features and the head on them, such as "CLMR linear"."""
    if result.head == "own":
        return _OWN_HEAD_NAMES.get(result.objective, f"{result.objective}, its own head")
    if result.head == "none":
        return result.kind
    if result.kind != "model":
        return f"{_KIND_NAMES.get(result.kind, result.kind)} {HEAD_NAMES[result.head]}"
    objective = result.training.objective if result.training else "contrastive"
    base = "CLMR" if objective == "contrastive" else f"features of {_OWN_HEAD_NAMES.get(objective, objective)},"
    return f"{base} {HEAD_NAMES[result.head]}"


def protocol_words(result: Result) -> str:
    """The preset, and every number in which the result differs from what the preset is in this version."""
    words = [result.preset]
    if result.preset in PROTOCOLS:
        usual = dataclasses.asdict(PROTOCOLS[result.preset])
        words += _differences(result.protocol, usual)
        head = result.protocol.get("head")
        if result.head in ("linear", "mlp") and isinstance(head, dict):
            # The name of the row says the first, and the kind of features decides the second.
            said = {name: head.get(name) for name in ("hidden_units", "standardise")}
            words += _differences(head, {**usual["head"], **said})
    return ", ".join(words)


def training_words(result: Result) -> str:
    """On what a model was trained, and each setting that is not the default."""
    if result.training is None:
        architecture = result.features.get("architecture")
        return f"width {architecture.get('width')}" if isinstance(architecture, dict) else ""
    return ", ".join([f"on {result.training.corpus}", *result.training.changed_settings()])


def label_words(results: Sequence[Result]) -> str:
    """Which labels were used, and how many, of results that differ in their seeds."""
    counts = [result.label_counts for result in results]
    of, first = counts[0]["of"], results[0]
    songs = numbers(count["num_songs"] for count in counts)
    if first.label_choice == "all":
        words = f"all ({songs} songs)"
    elif first.label_choice == "songs":
        words = f"{share_words(first.label_share)} of the songs ({songs} of {of['num_songs']:,})"
    else:
        examples = numbers(count["num_examples"] for count in counts)
        words = (
            f"{share_words(first.label_share)} like the paper ({examples} of {of['num_examples']:,} examples, of "
            f"{songs} of {of['num_songs']:,} songs)"
        )
    unseen = [len(count["tags_without_positives"]) for count in counts]
    return f"{words}, {numbers(unseen)} of {len(first.tag_names)} tags unseen" if any(unseen) else words


def share_words(share: float) -> str:
    """0.015 as "1.5 %"."""
    return f"{100 * share:g} %"


def numbers(values: Sequence[int]) -> str:
    """One number, or the smallest and the largest."""
    low, *_, high = sorted([*values] * 2)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def value_words(value: float | None) -> str:
    """A score with three digits."""
    return NOTHING if value is None else f"{value:.3f}"


def interval_words(interval: tuple[float, float] | None) -> str:
    """Both ends with three digits."""
    return NOTHING if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _differences(found: dict[str, Any], usual: dict[str, Any]) -> list[str]:
    names = [name for name in usual if name not in ("name", "differs", "head") and found.get(name) != usual[name]]
    return [f"{name.replace('_', ' ')} {found.get(name)}" for name in names]
