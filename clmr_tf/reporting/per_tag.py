"""Which two rows are compared tag by tag: CLMR, and the supervised model or the best baseline."""

import dataclasses
from collections.abc import Sequence

from clmr_tf.reporting.rows import Row
from clmr_tf.reporting.wording import protocol_words


@dataclasses.dataclass(frozen=True)
class TagComparison:
    """Two rows with the same labels, and the tags that both can be scored on.

    Attributes:
        model: The contrastive model.
        other: The supervised model, else the best baseline.
        tags: By falling PR-AUC of the model.
    """

    model: Row
    other: Row
    tags: tuple[str, ...]

    @property
    def is_supervised(self) -> bool:
        """Whether `other` is a model trained with labels, and not a baseline."""
        return self.other.first.head == "own"


def tag_comparison(rows: Sequence[Row]) -> TagComparison | None:
    """Chooses what to compare, by the validation split, since a choice by the test split would flatter.

    The model is the best one with a linear head, else the best with any, at the most labels at which there is something
    to compare it with: the best supervised model, else the best of the other features with the protocol of the model.

    Args:
        rows: Of one section, in its order.

    Returns:
        None if there is no such pair.
    """
    for labels in dict.fromkeys(_labels_of(row) for row in rows):
        alike = [row for row in rows if _labels_of(row) == labels]
        models = [row for row in alike if row.name.startswith("CLMR ") and row.first.head != "own"]
        supervised = [row for row in alike if row.first.head == "own" and row.first.objective == "supervised"]
        linear = [row for row in models if row.first.head == "linear"]
        model = _best(linear or models)
        if model is None:
            continue
        baselines = [
            row
            for row in alike
            if row.first.kind != "model" and protocol_words(row.first) == protocol_words(model.first)
        ]
        other = _best(supervised) or _best(baselines)
        if other is not None:
            return TagComparison(model, other, _tags_of(model, other))
    return None


def _labels_of(row: Row) -> tuple[str, float]:
    return row.first.label_choice, row.first.label_share


def _best(rows: Sequence[Row]) -> Row | None:
    scored = [row for row in rows if row.score(row.metric, "valid").mean is not None]
    return max(scored, key=lambda row: row.score(row.metric, "valid").mean, default=None)


def _tags_of(model: Row, other: Row) -> tuple[str, ...]:
    ours, theirs = model.per_tag("average_precision"), other.per_tag("average_precision")
    scored = [tag for tag in ours if ours[tag] is not None and theirs[tag] is not None]
    return tuple(sorted(scored, key=lambda tag: -ours[tag]))
