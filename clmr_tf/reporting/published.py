"""Published numbers, each with its source: published.json, and which of them belongs beside a row."""

import dataclasses
import functools
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

from clmr_tf.reporting.result_files import Result
from clmr_tf.reporting.rows import Row
from clmr_tf.reporting.wording import METRIC_NAMES, name_of

PUBLISHED_FILE = Path(__file__).with_name("published.json")
ABLATION_CORPUS = "magnatagatune-pons2017"


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
        training = row.first.training
        # The published models with all augmentations were trained for longer.
        if training is None or not (training.augmentation == "none" or training.augmentation.startswith("only-")):
            return None
        as_published = {
            "name": "CLMR linear",
            "preset": "released",
            "label_choice": "all",
            "label_share": 1.0,
            "trained_on": ABLATION_CORPUS,
            "augmentation": training.augmentation_words,
            "temperature": 0.5,
            "sample_rate_hz": 22050,
        }
        on_corpus = [one for one in self.rows if one.corpus == ABLATION_CORPUS and one.like]
        return next((one for one in on_corpus if _is_like(as_published, one)), None)

    def curves(self, result: Result) -> list[PublishedCurve]:
        """The curves on the corpus of a result."""
        curves: dict[tuple[str, str], list[tuple[float, Decimal]]] = {}
        for row in self.of(result):
            if row.like and row.like.get("label_choice") == ["like-paper"]:
                (name,), (share,) = row.like["name"], row.like["label_share"]
                curves.setdefault((name, row.source), []).append((share, row.scores["average_precision"]))
        return [PublishedCurve(*key, tuple(sorted(points))) for key, points in curves.items()]

    def link_to(self, source: str) -> str:
        """A source as a link in Markdown."""
        return f"[{self.sources[source].title}]({self.sources[source].address})"


@functools.cache
def read_published() -> Published:
    """Reads published.json, whose numbers are in percent, with their digits."""
    plain = json.loads(PUBLISHED_FILE.read_text(encoding="utf-8"), parse_float=Decimal)
    rows = [
        PublishedRow(
            corpus=table["corpus"],
            table=table["title"],
            name=row["name"],
            scores={metric: Decimal(row[metric]).scaleb(-2) for metric in METRIC_NAMES if metric in row},
            source=row.get("source") or table["source"],
            remark="; ".join(remark for remark in (table.get("remark"), row.get("remark")) if remark),
            like=_conditions({**table.get("like", {}), **row["like"]}) if "like" in row else None,
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
    if result.training:
        facts["trained_on"] = result.training.corpus
        facts["augmentation"] = result.training.augmentation_words
        facts |= {name: result.training.settings[name] for name in ("temperature", "sample_rate_hz")}
    return facts


def _conditions(plain: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {
        fact: [float(value) if isinstance(value, Decimal) else value for value in values]
        for fact, values in plain.items()
    }


def _is_like(facts: dict[str, Any], published: PublishedRow) -> bool:
    return published.like is not None and all(facts.get(fact) in values for fact, values in published.like.items())
