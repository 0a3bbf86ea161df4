"""Which rows of a report are compared: few labels, single tags, ablations of augmentations."""

from collections.abc import Sequence

from clmr_tf.config.augmentation import AUGMENTATION_NAMES
from clmr_tf.report.results import Row, Score, row_key

_FIGURE_ORDER = ["none", *(f"only-{name}" for name in AUGMENTATION_NAMES)]


def ablations(rows: Sequence[Row]) -> list[list[Row]]:
    """Groups contrastive models of one section that differ only in their augmentations.

    Returns:
        Groups with at least two augmentations, each in the order of the published figure, then all others.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.first.training and row.first.objective == "contrastive" and row.first.head != "own":
            groups.setdefault(row_key(row.first, "augmentation"), []).append(row)
    return [sorted(group, key=_place_in_figure) for group in groups.values() if len(group) > 1]


def augmentation_text(row: Row) -> str:
    """Names the augmentations, such as "crop alone", "filter", or "filter, probability=0.4"."""
    settings = row.first.training.settings
    name = settings["augmentation"].removeprefix("only-")
    changes = [change.removeprefix(f"{name}.") for change in settings["augmentation_changes"]]
    return ", ".join(["crop alone" if name == "none" else name, *changes])


def _place_in_figure(row: Row) -> tuple[int, str]:
    preset = row.first.training.settings["augmentation"]
    place = _FIGURE_ORDER.index(preset) if preset in _FIGURE_ORDER else len(_FIGURE_ORDER)
    return place, row.first.training.augmentation


def label_curves(rows: Sequence[Row], choice: str) -> dict[str, dict[float, Score]]:
    """Scores by the fraction of labels, for one way to select few labels.

    A fraction of the songs and a fraction of every combination of tags are different things, so a curve has points of
    only one of them. The point for all labels belongs to both, if the head was trained on the same kind of examples.

    Args:
        rows: Rows of one section.
        choice: "songs" or "like-paper".

    Returns:
        Points by the name of the curve, for everything that was evaluated with few labels. If names would be equal, the
        differences are appended.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.first.labels_used[0] in (choice, "all"):
            groups.setdefault(row_key(row.first, "labels"), []).append(row)
    curves = [group for group in groups.values() if any(row.first.labels_used[0] == choice for row in group)]
    names = _distinct_names([group[0] for group in curves])
    found = {}
    for name, group in zip(names, curves, strict=True):
        # If both kinds have a fraction of 1, the one of `choice` is used.
        ordered = sorted(group, key=lambda row: row.first.labels_used[0] != "all")
        points = {row.first.labels_used[1]: row.score(row.metric) for row in ordered}
        found[name] = dict(sorted(points.items()))
    return found


def _distinct_names(rows: Sequence[Row]) -> list[str]:
    """The names of rows, with protocol and training if they are needed to distinguish two rows."""
    names = [row.name for row in rows]
    for texts in (
        [row.protocol_text for row in rows],
        [f"{row.steps_text} steps {row.training_text}" for row in rows],
        [f"number {number}" for number, _ in enumerate(rows, 1)],
    ):
        differing = [len({texts[i] for i, other in enumerate(names) if other == name}) > 1 for name in names]
        names = [f"{name}, {text}" if d else name for name, text, d in zip(names, texts, differing, strict=True)]
    return names


def tag_comparison(rows: Sequence[Row]) -> tuple[Row, Row] | None:
    """Selects two rows by the validation split, because selection by the test split would be biased.

    The model is the best one with a linear head, or with any head if there is none, at the largest fraction of labels
    at which there is something to compare it with: the best supervised model, or else the best baseline with the same
    protocol.

    Args:
        rows: Rows of one section, in order.

    Returns:
        The model, and what it is compared with; None if there is no such pair.
    """
    for labels in dict.fromkeys(row.first.labels_used for row in rows):
        alike = [row for row in rows if row.first.labels_used == labels]
        models = [row for row in alike if row.name.startswith("CLMR ") and row.first.head != "own"]
        model = _best([row for row in models if row.first.head == "linear"] or models)
        if model is None:
            continue
        supervised = [row for row in alike if row.first.head == "own" and row.first.objective == "supervised"]
        baselines = [row for row in alike if row.first.kind != "model" and row.protocol_text == model.protocol_text]
        other = _best(supervised) or _best(baselines)
        if other is not None:
            return model, other
    return None


def common_tags(model: Row, other: Row) -> list[str]:
    """The tags for which both rows have scores, in descending order of the first row's PR-AUC."""
    ours, theirs = model.per_tag("average_precision"), other.per_tag("average_precision")
    tags = [tag for tag in ours if ours[tag] is not None and theirs[tag] is not None]
    return sorted(tags, key=lambda tag: -ours[tag])


def _best(rows: Sequence[Row]) -> Row | None:
    scores = {row.first.file: row.score(row.metric, "valid").mean for row in rows}
    scored = [row for row in rows if scores[row.first.file] is not None]
    return max(scored, key=lambda row: scores[row.first.file], default=None)
