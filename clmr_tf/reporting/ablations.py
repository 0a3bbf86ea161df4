"""Models that differ in their augmentation only, in the order of the published figure."""

import dataclasses
from collections.abc import Sequence

from clmr_tf.augmentation_config import AUGMENTATION_NAMES
from clmr_tf.reporting.rows import Row, identity
from clmr_tf.reporting.wording import label_words, protocol_words

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
