"""The page of a report: a section for each corpus and task, with its tables and pictures."""

from collections.abc import Sequence

from clmr_tf.reporting import tables
from clmr_tf.reporting.ablations import Ablation, ablations
from clmr_tf.reporting.label_curves import label_curves
from clmr_tf.reporting.per_tag import TagComparison, tag_comparison
from clmr_tf.reporting.pictures import draw_ablation, draw_label_curves, draw_tags
from clmr_tf.reporting.published import Published, PublishedRow, read_published
from clmr_tf.reporting.result_files import Result, SkippedFile
from clmr_tf.reporting.rows import Row
from clmr_tf.reporting.sections import Section, sections_of
from clmr_tf.reporting.wording import METRIC_NAMES

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
    lines += [*tables.main_table(section, published), ""]
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
        lines += _published(others, tables.metrics_of(section), published)
    return [*lines, "<details><summary>Files</summary>", "", *tables.files_table(section), "", "</details>", ""]


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
        lines += [f"{title[0].upper()}{title[1:]}:", "", *tables.label_table(curves, beside), ""]
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
        *tables.tag_table(comparison),
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
    lines += [*tables.ablation_table(ablation, tables.metrics_of(section), published), ""]
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
        *tables.published_table(rows, scored),
        "",
        "</details>",
        "",
    ]


def _number(section: Section, row: Row) -> int:
    return section.rows.index(row) + 1
