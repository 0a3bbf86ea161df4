"""Markdown tables of a report."""

from collections.abc import Iterable, Sequence

from clmr_tf.reporting.ablations import Ablation
from clmr_tf.reporting.label_curves import LabelCurve
from clmr_tf.reporting.per_tag import TagComparison
from clmr_tf.reporting.published import Published, PublishedCurve, PublishedRow
from clmr_tf.reporting.rows import Row, Score
from clmr_tf.reporting.sections import Section
from clmr_tf.reporting.wording import (
    METRIC_NAMES,
    NOTHING,
    interval_words,
    label_words,
    numbers,
    protocol_words,
    share_words,
    training_words,
    value_words,
)


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table; what would end a cell is written as an entity."""
    head, *lines = [
        "|" + "".join(f" {cell.replace('|', '&#124;')} |" if cell else " |" for cell in cells)
        for cells in (headings, *rows)
    ]
    return [head, "|" + len(headings) * "---|", *lines]


def metrics_of(section: Section) -> list[str]:
    """Which metrics its results have, the most important first for single labels, else in the paper's order."""
    names = ["roc_auc", "average_precision"]
    return ["accuracy", *names] if section.first.single_label else names


def main_table(section: Section, published: Published) -> list[str]:
    """All rows with all metrics, how they came about, and where there are some the published numbers."""
    metrics = metrics_of(section)
    headings = ["#", "features and head", "labels used", "protocol"]
    for metric in metrics:
        headings += [METRIC_NAMES[metric], "95 %"]
    headings += ["training steps", "training", "seed"]
    beside = [published.beside(row) for row in section.rows]
    if any(beside):
        headings.append(f"published: {', '.join(METRIC_NAMES[metric] for metric in metrics)}")
    lines = []
    for number, (row, one) in enumerate(zip(section.rows, beside, strict=True), start=1):
        cells = [str(number), row.name, label_words(row.results), protocol_words(row.first)]
        for metric in metrics:
            score = row.score(metric)
            cells += [score_words(score), interval_words(score.interval)]
        cells += [_steps(row), training_words(row.first) or NOTHING, row.seeds()]
        if any(beside):
            cells.append(_published_words(one, metrics) if one else NOTHING)
        lines.append(cells)
    return markdown_table(headings, lines)


def label_table(curves: Sequence[LabelCurve], published: Sequence[PublishedCurve]) -> list[str]:
    """A row for each curve, with its intervals, and for each published one; a column for each share of labels."""
    shares = sorted({share for curve in (*curves, *published) for share, _ in curve.points})
    lines = []
    for curve in curves:
        scores = dict(curve.points)
        cells = [
            f"{score_words(scores[share])} ({interval_words(scores[share].interval)})" if share in scores else NOTHING
            for share in shares
        ]
        lines.append([curve.name, *cells])
    for curve in published:
        values = dict(curve.points)
        name = f"published: {curve.name} ({curve.source})"
        lines.append([name, *(str(values.get(share, NOTHING)) for share in shares)])
    return markdown_table(["", *map(share_words, shares)], lines)


def tag_table(comparison: TagComparison) -> list[str]:
    """Both metrics of each tag for both rows."""
    rows, metrics = (comparison.model, comparison.other), ("average_precision", "roc_auc")
    columns = [row.per_tag(metric) for metric in metrics for row in rows]
    headings = ["tag", *(f"{METRIC_NAMES[metric]}: {row.name}" for metric in metrics for row in rows)]
    return markdown_table(
        headings, [[tag, *(value_words(column[tag]) for column in columns)] for tag in comparison.tags]
    )


def ablation_table(ablation: Ablation, metrics: Sequence[str], published: Published) -> list[str]:
    """A row for each augmentation, with the published PR-AUC on MagnaTagATune."""
    headings = ["augmentation"]
    for metric in metrics:
        headings += [METRIC_NAMES[metric], "95 %"]
    lines = []
    for row, augmentation in zip(ablation.rows, ablation.augmentations, strict=True):
        cells = [augmentation]
        for metric in metrics:
            score = row.score(metric)
            cells += [score_words(score), interval_words(score.interval)]
        one = published.ablation_beside(row)
        lines.append([*cells, row.seeds(), str(one.scores["average_precision"]) if one else NOTHING])
    return markdown_table([*headings, "seed", "published, MagnaTagATune: PR-AUC"], lines)


def published_table(rows: Sequence[PublishedRow], metrics: Sequence[str]) -> list[str]:
    """Published rows with the keys of their sources."""
    lines = [
        [
            row.table,
            row.name,
            *(str(row.scores.get(metric, NOTHING)) for metric in metrics),
            row.remark,
            row.source,
        ]
        for row in rows
    ]
    return markdown_table(["published", "", *(METRIC_NAMES[metric] for metric in metrics), "", "source"], lines)


def files_table(section: Section) -> list[str]:
    """Which files a row is made of, and the hash of the weights they evaluated."""
    lines = [
        [str(number), f"`{result.file}`", str(result.features.get("model_hash", NOTHING))[:12]]
        for number, row in enumerate(section.rows, start=1)
        for result in row.results
    ]
    return markdown_table(["#", "file", "weights"], lines)


def score_words(score: Score) -> str:
    """The mean, and of several seeds the standard deviation."""
    return value_words(score.mean) + (f" ± {score.spread:.3f}" if score.spread is not None else "")


def _steps(row: Row) -> str:
    if row.first.kind != "model":
        return NOTHING
    return numbers([result.features["training_step"] for result in row.results])


def _published_words(row: PublishedRow, metrics: Sequence[str]) -> str:
    scores = ", ".join(str(row.scores.get(metric, NOTHING)) for metric in metrics)
    return f"{scores} ({row.source})"
