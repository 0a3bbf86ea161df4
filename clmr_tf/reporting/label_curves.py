"""Scores by the share of labels: one curve for everything that was evaluated with few labels."""

import dataclasses
from collections.abc import Sequence

from clmr_tf.reporting.rows import Row, Score, distinct_names, identity


@dataclasses.dataclass(frozen=True)
class LabelCurve:
    """One line.

    Attributes:
        name: What was evaluated, and what sets it apart from another curve of that name.
        base_name: What was evaluated.
        points: Share of the labels, ascending, and score by the row's metric.
    """

    name: str
    base_name: str
    points: tuple[tuple[float, Score], ...]


def label_curves(rows: Sequence[Row], choice: str) -> list[LabelCurve]:
    """The curves of one way to choose few labels.

    A share of the songs and a share of every combination of tags are two things, so a curve has points of one of them
    only. All labels are the end of both, where the head learnt from the same kind of examples.

    Args:
        rows: Of one section.
        choice: "songs" or "like-paper".

    Returns:
        In the order of the rows; of those alone that were evaluated with few labels. Rows that contradict each other
        are on curves of their own.
    """
    groups: dict[str, list[list[Row]]] = {}
    for row in rows:
        if row.first.label_choice in (choice, "all"):
            alike = groups.setdefault(identity(row.first, without_labels=True), [])
            group = next((group for group in alike if _labels_of(row) not in map(_labels_of, group)), None)
            if group is None:
                alike.append(group := [])
            group.append(row)
    few = [
        group for alike in groups.values() for group in alike if any(row.first.label_choice == choice for row in group)
    ]
    curves = []
    for name, group in zip(distinct_names([group[0] for group in few]), few, strict=True):
        points: dict[float, Score] = {}
        # A share of 1 is all labels as well; where both are there, the curve takes the one of its own kind.
        for row in sorted(group, key=lambda row: row.first.label_choice == "all"):
            points.setdefault(row.first.label_share, row.score(row.metric))
        curves.append(LabelCurve(name, group[0].name, tuple(sorted(points.items()))))
    return curves


def _labels_of(row: Row) -> tuple[str, float]:
    return row.first.label_choice, row.first.label_share
