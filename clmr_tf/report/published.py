"""Published numbers, each with its source: published.json, and which of them belongs beside a row."""

import dataclasses
import functools
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

from clmr_tf.report.results import METRIC_NAMES, Result, Row, name_of

PUBLISHED_FILE = Path(__file__).with_name("published.json")
_ABLATION_TABLES = ("One augmentation beside the crop, on one of the two views", "One augmentation, by probability")
# What a published training is told by, beside its corpus, its steps and its augmentation.
_SETTINGS = ("batch_size", "sampling_unit", "optimizer", "temperature", "width", "sample_rate_hz")


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a number was published."""

    title: str
    address: str


@dataclasses.dataclass(frozen=True)
class PublishedRow:
    """A row of a published table.

    Attributes:
        corpus: Name of the corpus that was tested on.
        table: What the numbers are about.
        name: What was evaluated.
        scores: Numbers between 0 and 1 by the names in `METRIC_NAMES`, with the digits that were published.
        source: A key of `Published.sources`.
        remark: What else was said; may be empty.
        like: Which rows of a report it belongs beside, by `facts_of`: each fact with its possible values; None for
            none.
    """

    corpus: str
    table: str
    name: str
    scores: dict[str, Decimal]
    source: str
    remark: str
    like: dict[str, list[Any]] | None


@dataclasses.dataclass(frozen=True)
class PublishedCurve:
    """PR-AUC by the share of labels, chosen as the paper chose them.

    Attributes:
        name: Of the rows of a report that are like it.
        source: A key of `Published.sources`.
        points: Share and score, ascending.
    """

    name: str
    source: str
    points: tuple[tuple[float, Decimal], ...]


@dataclasses.dataclass(frozen=True)
class Published:
    """All published numbers.

    Attributes:
        sources: By their keys.
        num_test_clips: By corpus, of the whole published test split.
        rows: In the order of the file.
    """

    sources: dict[str, Source]
    num_test_clips: dict[str, int]
    rows: tuple[PublishedRow, ...]

    def of(self, result: Result) -> list[PublishedRow]:
        """Those on the corpus of a result, with its own tags."""
        return [row for row in self.rows if row.corpus == result.corpus and result.task is None]

    def beside(self, row: Row) -> PublishedRow | None:
        """The one that the results of a row are a repetition of, if there is one."""
        return next((one for one in self.of(row.first) if _is_like(facts_of(row.first), one)), None)

    def ablation_beside(self, row: Row) -> PublishedRow | None:
        """The one on MagnaTagATune with the crop alone or the same augmentation alone, whatever the corpus here is."""
        augmentation = facts_of(row.first).get("augmentation")
        tables = [one for one in self.rows if one.table in _ABLATION_TABLES]
        return next((one for one in tables if augmentation in one.like["augmentation"]), None)

    def curves(self, result: Result) -> list[PublishedCurve]:
        """The curves on the corpus of a result."""
        curves: dict[tuple[str, str], list[tuple[float, Decimal]]] = {}
        for row in self.of(result):
            if row.like and "like-paper" in row.like["label_choice"]:
                (name,), (share,) = row.like["name"], row.like["label_share"]
                curves.setdefault((name, row.source), []).append((share, row.scores["average_precision"]))
        return [PublishedCurve(*key, tuple(sorted(points))) for key, points in curves.items()]

    def remark_on_test(self, corpus: str, task: str | None, num_clips: int) -> str | None:
        """What to say where scores are of another test split than the published one, such as a part of its audio.

        Args:
            corpus: Name of the corpus that was tested on.
            task: Name of the labeling; None for the corpus' own tags, which alone are published.
            num_clips: In the test split.

        Returns:
            A sentence, or None where it is the same size or nothing is published.
        """
        num_published = self.num_test_clips.get(corpus)
        if task is not None or num_published in (None, num_clips):
            return None
        return (
            f"The published test split has {num_published:,} clips, so the published numbers are not to be compared "
            "with these."
        )

    def link_to(self, source: str) -> str:
        """A source as a link in Markdown."""
        return f"[{self.sources[source].title}]({self.sources[source].address})"


@functools.cache
def read_published() -> Published:
    """Reads published.json, whose numbers are in percent, with their digits.

    There `like` may name one of `trainings` for all the facts of a run that several rows are of.
    """
    plain = json.loads(PUBLISHED_FILE.read_text(encoding="utf-8"), parse_float=Decimal)
    rows = [
        PublishedRow(
            corpus=table["corpus"],
            table=table["title"],
            name=row["name"],
            scores={metric: Decimal(row[metric]).scaleb(-2) for metric in METRIC_NAMES if metric in row},
            source=row.get("source") or table["source"],
            remark="; ".join(remark for remark in (table.get("remark"), row.get("remark")) if remark),
            like=_conditions({**table.get("like", {}), **row["like"]}, plain["trainings"]) if "like" in row else None,
        )
        for table in plain["tables"]
        for row in table["rows"]
    ]
    sources = {key: Source(**source) for key, source in plain["sources"].items()}
    return Published(sources, plain["num_test_clips"], tuple(rows))


def facts_of(result: Result) -> dict[str, Any]:
    """What `PublishedRow.like` may ask of the results of a row."""
    facts: dict[str, Any] = {
        "name": name_of(result),
        "preset": result.preset,
        "label_choice": result.label_choice,
        "label_share": result.label_share,
    }
    settings: dict[str, Any] = {}
    if result.training:
        settings = result.training.settings
        facts["trained_on"] = result.training.corpus
        facts["augmentation"] = result.training.augmentation_words
        facts["step"] = result.training.step
    elif result.kind == "untrained":
        settings = result.features["architecture"]
    return facts | {name: settings[name] for name in _SETTINGS if name in settings}


def _conditions(like: dict[str, Any], trainings: dict[str, dict[str, Any]]) -> dict[str, list[Any]]:
    named = trainings[like["training"]] if "training" in like else {}
    said = {fact: values for fact, values in like.items() if fact != "training"}
    return {
        fact: [float(value) if isinstance(value, Decimal) else value for value in values]
        for fact, values in {**{fact: [value] for fact, value in named.items()}, **said}.items()
    }


def _is_like(facts: dict[str, Any], published: PublishedRow) -> bool:
    return published.like is not None and all(facts.get(fact) in values for fact, values in published.like.items())
