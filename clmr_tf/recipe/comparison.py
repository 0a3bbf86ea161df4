"""What a recipe measured, beside what was published."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from clmr_tf.errors import ClmrError
from clmr_tf.recipe.chain import Chain
from clmr_tf.recipe.recipe import METRICS, Recipe
from clmr_tf.reporting.published import read_published

METRIC_WORDS: Mapping[str, str] = {
    "roc_auc": "ROC-AUC",
    "average_precision": "PR-AUC",
    "roc_auc_by_clip": "ROC-AUC by clip",
    "average_precision_by_clip": "PR-AUC by clip",
    "accuracy": "accuracy",
}
"""What the paper calls the metrics."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One score.

    Attributes:
        probe: Which evaluation, in words.
        metric: A name in `METRICS`.
        measured_percent: On the test split.
        interval_percent: 95 %, over songs; None where nothing could be resampled.
        expected_percent: As published; None where nothing was.
        remark: Why the two are not to be compared; None where they are.
    """

    probe: str
    metric: str
    measured_percent: float
    interval_percent: tuple[float, float] | None
    expected_percent: float | None
    remark: str | None


def compare(chain: Chain) -> list[Comparison]:
    """All scores of all evaluations of a chain that was run, with the published ones.

    Raises:
        ClmrError: If a result cannot be read.
    """
    comparisons = []
    for number, probe in enumerate(chain.recipe.probes):
        path = chain.result(number)
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            scores, task = plain["scores"]["test"], plain.get("task")
            tested = plain["corpus"]["name"], task and task["name"], scores["num_clips"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ClmrError(f"The result {path} cannot be read; remove it and run the recipe again.") from error
        remark = read_published().remark_on_test(*tested)
        for metric, places in METRICS.items():
            score = _score(scores, places)
            if score.get("mean") is None:
                continue
            interval = score["interval"] and tuple(100 * value for value in score["interval"])
            expected = probe.expected_percent.get(metric)
            measured = 100 * score["mean"]
            comparisons.append(Comparison(words_of(probe.settings), metric, measured, interval, expected, remark))
    return comparisons


def corpora_in_words(recipe: Recipe, recipes: Mapping[str, Recipe]) -> str:
    """The corpus that is learnt from, and the one that is scored where it is another: "fma, magnatagatune"."""
    base = recipe if recipe.model_of is None else recipes[recipe.model_of]
    corpora = [base.train["corpus"], *(probe.settings["corpus"] for probe in recipe.probes)]
    return ", ".join(dict.fromkeys(corpora))


def expected_in_words(recipe: Recipe) -> str:
    """The scores of a recipe in percent, but for those by clip: "ROC-AUC 88.49, PR-AUC 35.11 (linear); ..."."""
    expectations = []
    for probe in recipe.probes:
        scores = [
            f"{METRIC_WORDS[name]} {probe.expected_percent[name]:g}"
            for name in ("roc_auc", "average_precision", "accuracy")
            if name in probe.expected_percent
        ]
        head = probe.settings.get("head", probe.settings["preset"])
        expectations += [f"{', '.join(scores)} ({head})"] if scores else []
    return "; ".join(expectations)


def words_of(settings: Mapping[str, Any]) -> str:
    """An evaluation in a few words, such as "magnatagatune, thesis, linear, labels 0.01"."""
    words = [str(settings[name]) for name in ("corpus", "features", "preset", "head") if name in settings]
    for name in ("labels", "labels_like_paper"):
        if settings.get(name) is not None:
            words.append(f"{name.replace('_', ' ')} {settings[name]}")
    return ", ".join(words)


def _score(scores: Any, places: tuple[str, ...]) -> dict[str, Any]:
    """Mean and interval of one metric; empty where the task has it not."""
    for place in places:
        scores = scores.get(place, {})
    return scores
