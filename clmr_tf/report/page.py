"""The page of a report."""

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence

from clmr_tf.report.comparisons import Ablation, LabelCurve, TagComparison, ablations, label_curves, tag_comparison
from clmr_tf.report.pictures import draw_ablation, draw_label_curves, draw_tags
from clmr_tf.report.published import Published, PublishedCurve, PublishedRow, read_published
from clmr_tf.report.results import (
    METRIC_NAMES,
    NOTHING,
    Result,
    Row,
    Score,
    SkippedFile,
    interval_words,
    label_words,
    numbers,
    protocol_words,
    rows_of,
    share_words,
    training_words,
    value_words,
)


@dataclasses.dataclass(frozen=True)
class Section:
    """Everything about one corpus and task.

    Attributes:
        heading: Names it, and if another has the same names also its fingerprints.
        slug: The heading as part of a file name, which no other section has.
        rows: At least one, in the order of the tables.
        remarks: Sentences about files that repeat or contradict others.
    """

    heading: str
    slug: str
    rows: tuple[Row, ...]
    remarks: tuple[str, ...]

    @property
    def first(self) -> Result:
        """A result that stands for all in what the section is about."""
        return self.rows[0].first


def sections_of(results: Sequence[Result]) -> list[Section]:
    """Parts results by corpus and task, of which fingerprints, tags and the size of the test split must be the same."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(_compared_by(result), []).append(result)
    names = [_heading(group[0]) for group in groups.values()]
    sections = []
    for name, group in zip(names, groups.values(), strict=True):
        heading = name if names.count(name) == 1 else _heading_with_fingerprints(group[0])
        if heading in (section.heading for section in sections):
            heading += f", {len(sections) + 1}"
        rows, remarks = rows_of(group)
        slug = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")
        # Of a name in another script nothing is left.
        if not slug or slug in (section.slug for section in sections):
            slug = "-".join(filter(None, [slug, str(len(sections) + 1)]))
        sections.append(Section(heading, slug, tuple(rows), tuple(remarks)))
    return sorted(sections, key=lambda section: section.heading)


def _compared_by(result: Result) -> str:
    test = result.scores["test"]
    corpus = [result.corpus, result.corpus_fingerprint, result.task, result.task_fingerprint, result.single_label]
    return json.dumps([*corpus, result.tag_names, test["num_songs"], test["num_clips"]])


def _heading(result: Result) -> str:
    return result.corpus if result.task is None else f"{result.corpus}, task {result.task}"


def _heading_with_fingerprints(result: Result) -> str:
    fingerprints = filter(None, [result.corpus_fingerprint, result.task_fingerprint])
    return f"{_heading(result)} ({', '.join(fingerprint[:12] for fingerprint in fingerprints)})"


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
    points = [*(curve.points for curve in curves), *(curve.points for curve in published)]
    shares = sorted({share for of_curve in points for share, _ in of_curve})
    lines = []
    for curve in curves:
        scores = dict(curve.points)
        cells = [
            f"{score_words(scores[share])} ({interval_words(scores[share].interval)})" if share in scores else NOTHING
            for share in shares
        ]
        lines.append([curve.name, *cells])
    for other in published:
        values = dict(other.points)
        name = f"published: {other.name} ({other.source})"
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


_CHOICE_TITLES = {
    "songs": "a share of the songs (--labels)",
    "like-paper": "a share of every combination of tags, at least one example (--labels-like-paper)",
}


def make_report(results: Sequence[Result], skipped: Sequence[SkippedFile]) -> tuple[str, dict[str, bytes]]:
    """Writes the page.

    Args:
        results: What was read.
        skipped: What could not be.

    Returns:
        Markdown, and the PNGs that it refers to by their file names.
    """
    published, pictures = read_published(), {}
    sections = sections_of(results)
    lines = ["# Evaluations", f"Written by `python -m clmr_tf.report` from {len(results)} results.", ""]
    if skipped:
        lines += [f"Skipped: `{one.file}` {one.reason}." for one in skipped]
        lines.append("")
    names = [(section.first.corpus, section.first.task) for section in sections]
    if len(set(names)) < len(names):
        lines += [
            "Some sections have one name and different fingerprints: their audio, labels or test splits are not the "
            "same, so the numbers of one are not to be compared with those of another.",
            "",
        ]
    for section in sections:
        lines += _section(section, published, pictures)
    return "\n".join(lines).rstrip("\n") + "\n", pictures


def _section(section: Section, published: Published, pictures: dict[str, bytes]) -> list[str]:
    lines = [f"## {section.heading}", *_about(section, published), ""]
    lines += [*main_table(section, published), ""]
    lines += [f"- {remark}" for remark in _remarks(section)]
    lines.append("")
    lines += _few_labels(section, published, pictures)
    comparison = tag_comparison(section.rows)
    if comparison is not None and comparison.tags:
        lines += _by_tag(section, comparison, pictures)
    for number, ablation in enumerate(ablations(section.rows), start=1):
        lines += _ablation(section, ablation, number, published, pictures)
    others = published.of(section.first)
    if others:
        lines += _published(others, metrics_of(section), published)
    return [*lines, "<details><summary>Files</summary>", "", *files_table(section), "", "</details>", ""]


def _about(section: Section, published: Published) -> list[str]:
    first = section.first
    test = first.scores["test"]
    fingerprints = f"corpus {first.corpus_fingerprint[:12]}"
    if first.task_fingerprint is not None:
        fingerprints += f", task {first.task_fingerprint[:12]}"
    lines = [
        f"Test split: {test['num_clips']:,} clips of {test['num_songs']:,} songs, {len(first.tag_names)} tags. "
        f"Fingerprints: {fingerprints}.",
    ]
    for words, names in (
        ("no test clip has them", test["tags_without_positives"]),
        ("all test clips have them", test["tags_without_negatives"]),
    ):
        if names:
            lines.append(f"Not scored, since {words}: {', '.join(names)}.")
    remark = published.remark_on_test(first.corpus, first.task, test["num_clips"])
    return lines if remark is None else [*lines, remark]


def _remarks(section: Section) -> list[str]:
    rows = section.rows
    resamplings = sorted({f"{row.first.protocol['interval']['num_resamplings']:,}" for row in rows})
    remarks = [
        "ROC-AUC and PR-AUC (average precision) are means over the tags; 95 % are percentiles of "
        f"{' or '.join(resamplings)} resamplings of the test songs. docs/evaluation.md explains the protocols."
    ]
    for preset in dict.fromkeys(row.first.preset for row in rows):
        same = [row for row in rows if row.first.preset == preset]
        differs = {str(row.first.protocol.get("differs") or "") for row in same}
        remarks += [f"Protocol {preset}: {words}." for words in sorted(differs) if words]
    if any(len(row.results) > 1 for row in rows):
        remarks.append(
            "Several seeds in a row: the mean and, behind ±, the standard deviation over the seeds; the interval has "
            "the means of their ends."
        )
    if any(row.first.training for row in rows):
        remarks.append("Seeds of models are that of the training and, behind the slash, that of the evaluation.")
    if any(row.first.head == "own" for row in rows):
        remarks.append("Models that were trained with labels are scored by their own head.")
    unknown = [number for number, row in enumerate(rows, 1) if row.first.kind == "model" and row.first.training is None]
    if unknown:
        remarks.append(
            f"How the models of row {', '.join(map(str, unknown))} were trained is not known, since no manifest.json "
            "of theirs lies beside the results; they are taken for CLMR."
        )
    return [*remarks, *section.remarks]


def _few_labels(section: Section, published: Published, pictures: dict[str, bytes]) -> list[str]:
    metric = section.rows[0].metric
    panels = []
    for choice, title in _CHOICE_TITLES.items():
        curves = label_curves(section.rows, choice)
        beside = published.curves(section.first) if choice == "like-paper" and metric == "average_precision" else []
        panels.append((title, curves, beside))
    if not any(curves for _, curves, _ in panels):
        return []
    panels = [panel for panel in panels if panel[1] or panel[2]]
    picture = f"{section.slug}-few-labels.png"
    pictures[picture] = draw_label_curves(panels, metric)
    lines = [
        "### Few labels",
        f"{METRIC_NAMES[metric]} by share of the labels. The two ways to choose 1 % are two things: the paper's keeps "
        "at least one example of every combination of tags, which is far more than 1 % of the songs.",
        "",
    ]
    for title, curves, beside in panels:
        lines += [f"{title[0].upper()}{title[1:]}:", "", *label_table(curves, beside), ""]
    return [*lines, f"![{METRIC_NAMES[metric]} by share of the labels]({picture})", ""]


def _by_tag(section: Section, comparison: TagComparison, pictures: dict[str, bytes]) -> list[str]:
    model, other = comparison.model, comparison.other
    kind = "the supervised model" if comparison.is_supervised else "the best of the other features"
    picture = f"{section.slug}-tags.png"
    pictures[picture] = draw_tags(comparison)
    return [
        "### By tag",
        f"{model.name} (row {_number(section, model)}) and {kind}, {other.name} (row {_number(section, other)}); where "
        "there are several, the validation split chose.",
        "",
        f"![PR-AUC and ROC-AUC of each tag]({picture})",
        "",
        "<details><summary>As a table</summary>",
        "",
        *tag_table(comparison),
        "",
        "</details>",
        "",
    ]


def _ablation(
    section: Section, ablation: Ablation, number: int, published: Published, pictures: dict[str, bytes]
) -> list[str]:
    metric = section.rows[0].metric
    picture = f"{section.slug}-augmentations{'' if number == 1 else f'-{number}'}.png"
    pictures[picture] = draw_ablation(ablation, metric, published)
    lines = [f"### Augmentations{'' if number == 1 else f' ({number})'}", f"{ablation.name}.", ""]
    lines += [*ablation_table(ablation, metrics_of(section), published), ""]
    pairs = [
        (words, row.score(metric).mean, published.ablation_beside(row))
        for words, row in zip(ablation.augmentations, ablation.rows, strict=True)
    ]
    compared = [
        (words, mean, one.scores["average_precision"]) for words, mean, one in pairs if one and mean is not None
    ]
    if len(compared) > 1:
        here = " > ".join(words for words, _, _ in sorted(compared, key=lambda pair: -pair[1]))
        there = " > ".join(words for words, _, _ in sorted(compared, key=lambda pair: -pair[2]))
        lines += [f"Order here: {here}. Published: {there}.", ""]
    sources = dict.fromkeys(one.source for _, _, one in pairs if one)
    if sources:
        links = ", ".join(map(published.link_to, sources))
        lines += [f"The published numbers are of a linear head on MagnaTagATune: {links}.", ""]
    return [*lines, f"![{METRIC_NAMES[metric]} by augmentation]({picture})", ""]


def _published(rows: Sequence[PublishedRow], metrics: Sequence[str], published: Published) -> list[str]:
    scored = [metric for metric in metrics if any(metric in row.scores for row in rows)]
    return [
        "### Published on this corpus",
        "Not measured here. Published in percent, given on the scale of the tables above.",
        "",
        *(f"- {source}: {published.link_to(source)}" for source in dict.fromkeys(row.source for row in rows)),
        "",
        "<details><summary>All published numbers</summary>",
        "",
        *published_table(rows, scored),
        "",
        "</details>",
        "",
    ]


def _number(section: Section, row: Row) -> int:
    return section.rows.index(row) + 1
