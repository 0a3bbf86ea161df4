"""What a report compares beside rows: ablations, few labels, tag by tag."""

import dataclasses
from collections.abc import Sequence

from clmr_tf.config.augmentation import AUGMENTATION_NAMES
from clmr_tf.report.results import Row, Score, distinct_names, identity, label_words, protocol_words

_FIGURE_ORDER = ("none", *(f"only-{name}" for name in AUGMENTATION_NAMES))


@dataclasses.dataclass(frozen=True)
class Ablation:
    """At least two models.

    Attributes:
        name: What they have in common.
        rows: Of the models.
        augmentations: Of the rows: "crop alone", "filter", "filter, probability=0.4", or the name of a preset.
    """

    name: str
    rows: tuple[Row, ...]
    augmentations: tuple[str, ...]


def ablations(rows: Sequence[Row]) -> list[Ablation]:
    """Groups the contrastive models of a section that were trained and evaluated alike.

    Returns:
        Those with at least two augmentations, each in the order of the published figure, with all others behind it.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        training = row.first.training
        if training is not None and training.objective == "contrastive" and row.first.head != "own":
            groups.setdefault(identity(row.first, without_augmentation=True), []).append(row)
    several = [group for group in groups.values() if len({_augmentation_of(row) for row in group}) > 1]
    found = []
    for group in several:
        ordered = sorted(group, key=_place_of)
        first = ordered[0].first
        training = first.training
        common = [setting for setting in training.changed_settings() if not setting.startswith("augmentation ")]
        name = ", ".join(
            [
                ordered[0].name,
                f"labels {label_words(ordered[0].results)}",
                f"protocol {protocol_words(first)}",
                f"{training.step:,} steps on {training.corpus}",
                *common,
            ]
        )
        found.append(Ablation(name, tuple(ordered), tuple(_words(row) for row in ordered)))
    return found


def _words(row: Row) -> str:
    training = row.first.training
    alone = training.augmentation.removeprefix("only-")
    changes = [change.removeprefix(f"{alone}.") for change in training.augmentation_changes]
    return ", ".join(["crop alone" if alone == "none" else alone, *changes])


def _augmentation_of(row: Row) -> str:
    return row.first.training.augmentation_words


def _place_of(row: Row) -> tuple[int, str]:
    preset = row.first.training.augmentation
    place = _FIGURE_ORDER.index(preset) if preset in _FIGURE_ORDER else len(_FIGURE_ORDER)
    return place, _augmentation_of(row)


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
            group = next((group for group in alike if _label_share_of(row) not in map(_label_share_of, group)), None)
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


def _label_share_of(row: Row) -> tuple[str, float]:
    return row.first.label_choice, row.first.label_share


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
