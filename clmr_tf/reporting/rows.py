"""Rows of a table: results that differ in nothing but their seeds are one row, with mean and spread."""

import dataclasses
import json
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from clmr_tf.reporting.result_files import Result
from clmr_tf.reporting.wording import HEAD_NAMES, name_of, protocol_words, training_words

_ORDER = ("majority", "mel statistics", "untrained SampleCNN", "SampleCNN supervised", "CLMR", "CLMR fine-tuned")
_LABEL_ORDER = ("all", "songs", "like-paper")


@dataclasses.dataclass(frozen=True)
class Score:
    """A score of a row.

    Attributes:
        mean: Over the seeds; None where a seed has none.
        interval: 95 %; of several seeds the means of their ends.
        spread: Standard deviation over the seeds; None for a single one.
    """

    mean: float | None
    interval: tuple[float, float] | None
    spread: float | None


@dataclasses.dataclass(frozen=True)
class Row:
    """Results of one thing, one for each seed."""

    results: tuple[Result, ...]

    @property
    def first(self) -> Result:
        """A result that stands for all, where they do not differ."""
        return self.results[0]

    @property
    def name(self) -> str:
        """What was evaluated, such as "CLMR linear"."""
        return name_of(self.first)

    @property
    def metric(self) -> str:
        """The metric that the row is judged by: accuracy of single labels, else average precision."""
        return "accuracy" if self.first.single_label else "average_precision"

    def score(self, metric: str, split: str = "test") -> Score:
        """The score by "accuracy", or the macro average over tags of "roc_auc" or "average_precision"."""
        scores = [result.scores[split][metric] for result in self.results]
        scores = scores if metric == "accuracy" else [score["over_tags"] for score in scores]
        means, intervals = [score["mean"] for score in scores], [score["interval"] for score in scores]
        return Score(
            mean=None if None in means else statistics.fmean(means),
            interval=None
            if None in intervals
            else (statistics.fmean(low for low, _ in intervals), statistics.fmean(high for _, high in intervals)),
            spread=None if None in means or len(means) == 1 else statistics.stdev(means),
        )

    def per_tag(self, metric: str) -> dict[str, float | None]:
        """The score of each tag on the test split, the mean over the seeds; None where it cannot be scored."""
        each = [result.scores["test"][metric]["per_tag"] for result in self.results]
        return {
            tag: None if any(one[tag] is None for one in each) else statistics.fmean(one[tag] for one in each)
            for tag in self.first.tag_names
        }

    def seeds(self) -> str:
        """The seeds of the evaluations; of a model that of its training before it, with a slash between."""
        pairs = [
            f"{result.training.seed}/{result.seed}" if result.training else str(result.seed) for result in self.results
        ]
        return ", ".join(dict.fromkeys(pairs))


def rows_of(results: Iterable[Result]) -> tuple[list[Row], list[str]]:
    """Puts results of one corpus and task into rows, in the order of the tables.

    Returns:
        The rows, and sentences about files that repeat another or contradict it.
    """
    groups: dict[str, list[dict[Any, Result]]] = {}
    remarks = []
    for result in results:
        seeds = (result.training.seed if result.training else None, result.seed)
        by_seeds = groups.setdefault(identity(result), [{}])
        same = [one[seeds] for one in by_seeds if seeds in one]
        copied = [one.file for one in same if one.scores == result.scores]
        if copied:
            remarks.append(f"`{result.file}` is the same result as `{copied[0]}` and counts once.")
            continue
        if same:
            remarks.append(
                f"`{result.file}` has the settings and seeds of `{same[0].file}` but other scores; it is a row of "
                "its own. Different versions of the packages may be why."
            )
        if len(same) == len(by_seeds):
            by_seeds.append({})
        by_seeds[len(same)][seeds] = result
    rows = [
        Row(tuple(result for _, result in sorted(by_seeds.items()))) for group in groups.values() for by_seeds in group
    ]
    return sorted(rows, key=_place_of), remarks


def identity(result: Result, *, without_labels: bool = False, without_augmentation: bool = False) -> str:
    """Text that is the same for results that differ in their seeds only, or in what is left out as well."""
    facts: dict[str, Any] = {"name": name_of(result), "preset": result.preset, "protocol": _protocol_of(result)}
    if not without_labels:
        facts["labels"] = [result.label_choice, result.label_share]
    training, features = result.training, result.features
    if result.kind != "model":
        drawn = {"seed", "model_hash", "model"}
        facts["features"] = {name: value for name, value in features.items() if name not in drawn}
    elif training is None:
        facts["features"] = [features["model_hash"], features["training_step"]]
    else:
        has_own_head = result.head == "own"
        facts["features"] = {
            "architecture": features.get("architecture"),
            # With an end of its own, which depends on the seed and on the labels.
            "step": None if has_own_head else training.step,
            "objective": training.objective,
            "corpus": training.corpus_fingerprint,
            "augmentation": None if without_augmentation else training.augmentation_words,
            "settings": training.settings,
        }
    return json.dumps(facts, sort_keys=True)


def distinct_names(rows: Sequence[Row]) -> list[str]:
    """The names of rows; those that are not alone with theirs say what sets them apart, at last by a number."""
    names = [row.name for row in rows]
    for words in (protocol_words, _steps_and_training):
        more = [words(row.first) for row in rows]
        alike = [{more[other] for other, same in enumerate(names) if same == name} for name in names]
        names = [
            f"{name}, {one}" if one and len(others) > 1 else name
            for name, one, others in zip(names, more, alike, strict=True)
        ]
    return [
        f"{name} ({names[: place + 1].count(name)})" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]


def _steps_and_training(result: Result) -> str:
    if result.kind != "model":
        return training_words(result)
    return f"{result.features['training_step']:,} steps, {training_words(result)}"


def _protocol_of(result: Result) -> dict[str, Any]:
    """The protocol without remarks and what the grid chose, and with a head's numbers only where it has any."""
    protocol = {name: value for name, value in result.protocol.items() if name not in ("name", "differs", "interval")}
    return {**protocol, "head": None if result.head in ("grid", "own", "none") else protocol.get("head")}


def _place_of(row: Row) -> tuple:
    result, name = row.first, row.name
    places = [place for place, known in enumerate(_ORDER) if name == known or name.startswith(f"{known} ")]
    heads = [place for place, head in enumerate(HEAD_NAMES.values()) if name.endswith(f" {head}")]
    labels = (_LABEL_ORDER.index(result.label_choice), -result.label_share)
    words = name, protocol_words(result), training_words(result), result.file
    return labels, max(places, default=len(_ORDER)), max(heads, default=0), words
