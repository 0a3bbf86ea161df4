"""The page of a report."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from matplotlib.figure import Figure

from clmr_tf.recipes.recipe import remark_on_test_split
from clmr_tf.report.comparisons import ablations, augmentation_text, common_tags, label_curves, tag_comparison
from clmr_tf.report.pictures import draw_ablation, draw_label_curves, draw_tags
from clmr_tf.report.published import (
    PublishedRow,
    published_ablation,
    published_beside,
    published_curves,
    published_on,
)
from clmr_tf.report.results import (
    METRIC_NAMES,
    NOTHING,
    Result,
    Row,
    Score,
    format_percent,
    format_score,
    rows_of,
)

_CHOICES = {
    "songs": "A fraction of the songs (--labels)",
    "like-paper": "A fraction of every combination of tags, at least one example (--labels-like-paper)",
}


@dataclasses.dataclass(frozen=True)
class Section:
    """All results on one corpus and task, of the same fingerprints, tags and test split.

    Attributes:
        heading: Corpus and task, with a number if an earlier section has the same.
        slug: The heading as part of a file name; no other section has it.
        rows: At least one, in the order of the tables.
        remarks: Sentences about files that repeat others.
    """

    heading: str
    slug: str
    rows: tuple[Row, ...]
    remarks: tuple[str, ...]

    @property
    def first(self) -> Result:
        """One result, for everything that is the same in all of them."""
        return self.rows[0].first

    @property
    def metrics(self) -> list[str]:
        """The metrics that the results have, the main one of single labels first."""
        return ["accuracy"] * self.first.single_label + ["roc_auc", "average_precision"]


def sections_of(results: Sequence[Result]) -> list[Section]:
    """Groups results that can be compared with each other."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        test = result.scores["test"]
        # Its fingerprint identifies a task; older results have no description of it.
        task = result.entries.get("task", {}).get("fingerprint")
        key = [result.corpus, result.task, task, result.single_label, test["num_songs"], test["num_clips"]]
        groups.setdefault(str(key), []).append(result)
    sections: dict[str, Section] = {}
    for group in groups.values():
        name = group[0].corpus["name"] + (f", task {group[0].task}" if group[0].task else "")
        heading, number = name, 1
        while (slug := re.sub(r"\W+", "-", heading.lower()).strip("-")) in sections:
            number += 1
            heading = f"{name} ({number})"
        rows, remarks = rows_of(group)
        sections[slug] = Section(heading, slug, tuple(rows), tuple(remarks))
    return sorted(sections.values(), key=lambda section: section.heading)


def make_report(results: Sequence[Result]) -> tuple[str, dict[str, Figure]]:
    """Writes the page.

    Returns:
        Markdown, and the figures that it refers to by their file names.
    """
    figures: dict[str, Figure] = {}
    lines = ["# Evaluations", f"Written by `python -m clmr_tf.report` from {len(results)} results.", ""]
    for section in sections_of(results):
        lines += [f"## {section.heading}", *_about(section), "", *main_table(section), ""]
        lines += [*(f"- {remark}" for remark in _remarks(section)), "", *_differences(section)]
        lines += [*_few_labels(section, figures), *_by_tag(section, figures), *_ablations(section, figures)]
        lines += [*_published(section), *_details("Files", files_table(section))]
    return "\n".join(lines).rstrip("\n") + "\n", figures


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table; the character that would end a cell is written as an entity."""
    lines = ["| " + " | ".join(cell.replace("|", "&#124;") for cell in cells) + " |" for cells in (headings, *rows)]
    return [lines[0], "|" + len(headings) * "---|", *lines[1:]]


def main_table(section: Section) -> list[str]:
    """All rows with all metrics, how they were measured, and the published numbers that they reproduce."""
    metrics, names = section.metrics, [METRIC_NAMES[metric] for metric in section.metrics]
    headings = ["#", "features and head", "labels used", "protocol", *_with_intervals(names)]
    headings += ["training steps", "training", "seed"]
    published = [published_beside(row.first) for row in section.rows]
    if any(published):
        headings.append(f"published: {', '.join(names)}")
    lines = []
    for number, (row, beside) in enumerate(zip(section.rows, published, strict=True), 1):
        cells = [str(number), row.name, row.labels_text, row.protocol_text, *_scores(row, metrics)]
        cells += [row.steps_text, row.training_text or NOTHING, row.seeds]
        if any(published):
            texts = [f"{', '.join(_published_scores(one, metrics))} ({one.recipe})" for one in beside]
            cells.append("; ".join(texts) or NOTHING)
        lines.append(cells)
    return markdown_table(headings, lines)


def _with_intervals(names: Sequence[str]) -> list[str]:
    return [heading for name in names for heading in (name, "95 %")]


def _scores(row: Row, metrics: Sequence[str]) -> list[str]:
    scores = map(row.score, metrics)
    return [cell for score in scores for cell in (str(score), score.interval_text)]


def _published_scores(row: PublishedRow, metrics: Sequence[str]) -> list[str]:
    return [f"{row.scores[metric]:g}" if metric in row.scores else NOTHING for metric in metrics]


def label_table(
    curves: Mapping[str, Mapping[float, Score]], published: Mapping[str, Sequence[tuple[float, float]]]
) -> list[str]:
    """A row for each curve and each published one, a column for each fraction of labels."""
    texts = {
        name: {fraction: f"{score} ({score.interval_text})" for fraction, score in points.items()}
        for name, points in curves.items()
    }
    texts |= {name: {fraction: f"{score:g}" for fraction, score in points} for name, points in published.items()}
    fractions = sorted({fraction for points in texts.values() for fraction in points})
    lines = [[name, *(points.get(fraction, NOTHING) for fraction in fractions)] for name, points in texts.items()]
    return markdown_table(["", *map(format_percent, fractions)], lines)


def ablation_table(rows: Sequence[Row], metrics: Sequence[str]) -> list[str]:
    """A row for each augmentation, with the published PR-AUC on MagnaTagATune."""
    lines = []
    for row in rows:
        published = published_ablation(row.first)
        beside = _published_scores(published, ["average_precision"]) if published else [NOTHING]
        lines.append([augmentation_text(row), *_scores(row, metrics), row.seeds, *beside])
    names = _with_intervals([METRIC_NAMES[metric] for metric in metrics])
    return markdown_table(["augmentation", *names, "seed", "published, MagnaTagATune: PR-AUC"], lines)


def ablation_title(rows: Sequence[Row]) -> str:
    """What the rows of an ablation have in common."""
    training = rows[0].training_text.partition(", augmentation ")[0]
    texts = [rows[0].name, f"labels {rows[0].labels_text}", f"protocol {rows[0].protocol_text}"]
    return ", ".join([*texts, f"{rows[0].steps_text} steps {training}"])


def files_table(section: Section) -> list[str]:
    """The files of each row, and the hash of the weights that they evaluated."""
    lines = [
        [str(number), f"`{result.file}`", str(result.features.get("model_hash", NOTHING))[:12]]
        for number, row in enumerate(section.rows, 1)
        for result in row.results
    ]
    return markdown_table(["#", "file", "weights"], lines)


def _details(summary: str, lines: Sequence[str]) -> list[str]:
    return [f"<details><summary>{summary}</summary>", "", *lines, "", "</details>", ""]


def _about(section: Section) -> list[str]:
    first, test = section.first, section.first.scores["test"]
    fingerprints = f"corpus {first.corpus['fingerprint'][:12]}"
    if first.task is not None:
        fingerprints += f", task {first.entries['task']['fingerprint'][:12]}"
    lines = [
        f"Test split: {test['num_clips']:,} clips of {test['num_songs']:,} songs, {len(first.tag_names)} tags. "
        f"Fingerprints: {fingerprints}."
    ]
    for text, names in (
        ("no test clip has them", test["tags_without_positives"]),
        ("all test clips have them", test["tags_without_negatives"]),
    ):
        if names:
            lines.append(f"Not scored, because {text}: {', '.join(names)}.")
    if section.heading.endswith(")"):
        lines.append("Another section has the same name, but other audio, labels or test clips: do not compare them.")
    remark = remark_on_test_split(first.corpus["name"], first.task, test["num_clips"])
    return lines if remark is None else [*lines, remark]


def _remarks(section: Section) -> list[str]:
    rows = section.rows
    resamplings = sorted({f"{row.first.protocol['interval']['num_resamplings']:,}" for row in rows})
    remarks = [
        "ROC-AUC and PR-AUC (average precision) are means over the tags; 95 % are percentiles of "
        f"{' or '.join(resamplings)} resamplings of the test songs. docs/evaluation.md explains the protocols."
    ]
    differs = {(row.first.preset, row.first.protocol.get("differs")): None for row in rows}
    remarks += [f"Protocol {preset}: {text}." for preset, text in differs if text]
    if any(len(row.results) > 1 for row in rows):
        remarks.append(
            "Rows of several seeds have mean ± standard deviation over the seeds, and the means of both ends of the "
            "interval."
        )
    if any(row.first.training for row in rows):
        remarks.append("Seeds of models: training/evaluation.")
    if any(row.first.head == "own" for row in rows):
        remarks.append("Models that were trained with labels are scored by their own head.")
    unknown = [number for number, row in enumerate(rows, 1) if row.first.kind == "model" and row.first.training is None]
    if unknown:
        remarks.append(
            f"It is not known how the models of row {', '.join(map(str, unknown))} were trained, because their "
            "manifest.json is not next to the results; they count as CLMR."
        )
    return [*remarks, *section.remarks]


def _differences(section: Section) -> list[str]:
    """The differences in the results of the preset standard, each on the same resampled songs."""
    lines = []
    for number, row in enumerate(section.rows, 1):
        for entry in (one for result in row.results for one in result.entries.get("differences", ())):
            minus = entry["minus"]
            features = minus["features"]
            other = f"`{minus['file']}`" if "file" in minus else f"{features['kind']}, seed {features['seed']}"
            cells = [f"{number}: {row.name}", other]
            for metric in section.metrics:
                score = entry["scores"].get(metric, {})
                low_high = score.get("interval")
                cells += (
                    [f"{score['mean']:+.3f}", "{:+.3f} to {:+.3f}".format(*low_high)] if low_high else 2 * [NOTHING]
                )
            lines.append(cells)
    if not lines:
        return []
    headings = ["row", "minus", *_with_intervals([METRIC_NAMES[metric] for metric in section.metrics])]
    return [
        "### Differences",
        "Both encoders are scored on the same songs in each resampling, so a difference has a narrower interval than "
        "the two scores suggest.",
        "",
        *markdown_table(headings, lines),
        "",
    ]


def _few_labels(section: Section, figures: dict[str, Figure]) -> list[str]:
    metric = section.rows[0].metric
    panels = []
    for choice, title in _CHOICES.items():
        has_published = choice == "like-paper" and metric == "average_precision"
        published = published_curves(section.first) if has_published else {}
        panels.append((title, label_curves(section.rows, choice), published))
    if not any(curves for _, curves, _ in panels):
        return []
    panels = [panel for panel in panels if panel[1] or panel[2]]
    figure = f"{section.slug}-few-labels.png"
    figures[figure] = draw_label_curves(panels, metric)
    lines = [
        "### Few labels",
        f"{METRIC_NAMES[metric]} by the fraction of the labels. The two ways to select 1 % are different: the paper's "
        "keeps at least one example of every combination of tags, which is far more than 1 % of the songs.",
        "",
    ]
    for title, curves, published in panels:
        lines += [f"{title}:", "", *label_table(curves, published), ""]
    return [*lines, f"![{METRIC_NAMES[metric]} by the fraction of the labels]({figure})", ""]


def _by_tag(section: Section, figures: dict[str, Figure]) -> list[str]:
    rows = tag_comparison(section.rows)
    tags = common_tags(*rows) if rows else []
    if not tags:
        return []
    metrics = ("average_precision", "roc_auc")
    columns = [row.per_tag(metric) for metric in metrics for row in rows]
    headings = ["tag", *(f"{METRIC_NAMES[metric]}: {row.name}" for metric in metrics for row in rows)]
    lines = [[tag, *(format_score(column[tag]) for column in columns)] for tag in tags]
    figure = f"{section.slug}-tags.png"
    figures[figure] = draw_tags(*rows)
    kind = "the supervised model" if rows[1].first.head == "own" else "the best of the other features"
    model, other = (f"{row.name} (row {section.rows.index(row) + 1})" for row in rows)
    return [
        "### By tag",
        f"{model} and {kind}, {other}; if there are several, the best on the validation split.",
        "",
        f"![PR-AUC and ROC-AUC of each tag]({figure})",
        "",
        *_details("As a table", markdown_table(headings, lines)),
    ]


def _ablations(section: Section, figures: dict[str, Figure]) -> list[str]:
    lines, metric = [], section.rows[0].metric
    for number, rows in enumerate(ablations(section.rows), 1):
        published = [published_ablation(row.first) for row in rows]
        suffix = "" if number == 1 else f"-{number}"
        figure = f"{section.slug}-augmentations{suffix}.png"
        figures[figure] = draw_ablation(rows, published, metric)
        lines += ["### Augmentations", f"{ablation_title(rows)}.", "", *ablation_table(rows, section.metrics), ""]
        if links := dict.fromkeys(one.link for one in published if one):
            lines += [f"The published numbers are of a linear head on MagnaTagATune: {', '.join(links)}.", ""]
        lines += [f"![{METRIC_NAMES[metric]} by augmentation]({figure})", ""]
    return lines


def _published(section: Section) -> list[str]:
    rows = published_on(section.first)
    if not rows:
        return []
    metrics = [metric for metric in section.metrics if any(metric in row.scores for row in rows)]
    lines = [[row.table, row.row, *_published_scores(row, metrics), row.source, row.recipe or NOTHING] for row in rows]
    headings = ["table", "row", *(METRIC_NAMES[metric] for metric in metrics), "source", "recipe"]
    return [
        "### Published on this corpus",
        "Not measured here. Sources:",
        "",
        *(f"- {link}" for link in dict.fromkeys(row.link for row in rows)),
        "",
        *_details("All published numbers", markdown_table(headings, lines)),
    ]
