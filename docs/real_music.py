"""The section of results.md about real music, from the evaluations of `python -m benchmarks.real_music`.

A record is real_music/NAME: the evaluations of a model, and its manifest. `python -m clmr_tf.report` puts all of them
into real_music/report.md; results.md has only the comparison.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from clmr_tf.errors import UsageError
from clmr_tf.report.__main__ import ReportConfig, report
from clmr_tf.report.comparisons import ablations, label_curves
from clmr_tf.report.page import ablation_table, label_table, markdown_table, sections_of
from clmr_tf.report.published import read_published
from clmr_tf.report.results import (
    METRIC_NAMES,
    Result,
    Row,
    interval_words,
    label_words,
    name_of,
    read_results,
    value_words,
)

_MAIN_TASK = "pseudo-tags"
_INTRODUCTION = """\
## Music of games
`python -m benchmarks.real_music`, on [{corpus}](debian_games.md): {num_train} songs for training, {num_test} in
the test split. CLMR of half width was trained for {num_steps:,} steps of {batch_size} pairs without labels; the
supervised SampleCNN has the same width.
{protocols}
Intervals are 95 % intervals over the test songs. [All numbers](real_music/report.md), with ROC-AUC, scores of each
tag, and the settings of each training.
"""
_PROTOCOLS = {
    "released": "In the released protocol a head is trained on one crop of each song.",
    "thesis": "In the thesis' protocol it is trained on all chunks of a song.",
}
_PSEUDO_TAGS = """\
### Pseudo-tags, macro PR-AUC, by fraction of the labelled songs
The labels are the predictions of MTT_musicnn, so its own features are an upper bound, not a competitor.
"""
_SEVERAL_DRAWS = """\
Few labels were drawn several times, each with another seed for everything random: songs, untrained and supervised
weights, crops, the start of a head. These cells give mean ± standard deviation, and the means of the ends of the
intervals.
"""


def record(models: Path, records: Path) -> None:
    """Copies the results of a benchmark, replacing the previous record.

    Args:
        models: Folder of the model folders.
        records: Folder to keep the copies in.

    Raises:
        UsageError: If there is no model folder in it.
    """
    found = sorted(path.parent for path in models.glob("*/manifest.json"))
    if not found:
        raise UsageError(f"There is no model folder in {models}; run python -m benchmarks.real_music first.")
    # The report would merge two records in one folder.
    shutil.rmtree(records, ignore_errors=True)
    for folder in found:
        there = records / folder.name
        there.mkdir(parents=True)
        for path in folder.glob("evaluation-*.json"):
            shutil.copyfile(path, there / path.name)
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        training = manifest["training"]
        # The path of the music is of no use to anyone else.
        training["config"]["corpus"] = training["run"]["corpus"]["name"]
        (there / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def section(records: Path) -> str:
    """The section of results.md, empty without a record; also writes report.md and its pictures.

    Raises:
        UsageError: If the record has no result of CLMR.
    """
    if not records.is_dir():
        return ""
    report(ReportConfig(results=records, out=records))
    results, _ = read_results(records)
    scored = (
        one for one in results if name_of(one) == "CLMR linear" and one.task == _MAIN_TASK and not _is_ablation(one)
    )
    clmr = next(scored, None)
    if clmr is None:
        raise UsageError(f"{records} has no result of CLMR with the {_MAIN_TASK}; run python -m benchmarks.real_music.")
    lines = [
        _INTRODUCTION.format(
            corpus=clmr.corpus,
            num_train=clmr.label_counts["of"]["num_songs"],
            num_test=clmr.scores["test"]["num_songs"],
            num_steps=clmr.training.step,
            batch_size=clmr.training.settings["batch_size"],
            protocols=" ".join(words for name, words in _PROTOCOLS.items() if name in {one.preset for one in results}),
        )
    ]
    for one in sections_of(results):
        if one.first.task == _MAIN_TASK:
            draws = [_SEVERAL_DRAWS] if any(len(row.results) > 1 for row in one.rows) else []
            rows = [row for row in one.rows if not _is_ablation(row.first)]
            lines += [_PSEUDO_TAGS, *draws, *label_table(label_curves(rows, "songs"), []), ""]
            lines += [_labels(rows), ""]
            curves = records / f"{one.slug}-few-labels.png"
            if curves.is_file():
                lines += [f"![PR-AUC by fraction of the labelled songs]({records.name}/{curves.name})", ""]
        else:
            metric = one.rows[0].metric
            lines += [f"### {one.first.task.capitalize()}, {METRIC_NAMES[metric]}", "", *_scores(one.rows, metric), ""]
        for ablation in ablations(one.rows):
            table = ablation_table(ablation, ["average_precision"], read_published())
            lines += [f"### Each augmentation alone, pseudo-tags\n{ablation.name}.\n", *table, ""]
    return "\n".join(lines)


def _is_ablation(result: Result) -> bool:
    training = result.training
    return training is not None and training.objective == "contrastive" and training.augmentation != "released"


def _labels(rows: Sequence[Row]) -> str:
    """How many songs each fraction of the labels is, from the row with the most fractions."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(f"{row.name} {row.first.preset}", []).append(row)
    words = [label_words(row.results) for row in max(by_name.values(), key=len)]
    return f"Labels: {'; '.join(reversed(words))}. The validation split keeps all its labels."


def _scores(rows: Sequence[Row], metric: str) -> list[str]:
    scores = [(row.name, row.score(metric)) for row in rows]
    lines = [[name, value_words(score.mean), interval_words(score.interval)] for name, score in scores]
    return markdown_table(["features and head", METRIC_NAMES[metric], "95 %"], lines)
