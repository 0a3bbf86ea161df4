"""The section of results.md about real music, from the results of `python -m benchmarks.real_music`.

Each folder below real_music/ has the results of a model and its manifest. real_music/report.md, written by
`python -m clmr_tf.report`, has everything about them; results.md has only the comparison.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from clmr_tf.errors import UsageError
from clmr_tf.report.__main__ import ReportConfig, report
from clmr_tf.report.comparisons import ablations, label_curves
from clmr_tf.report.page import ablation_table, ablation_title, label_table, markdown_table, sections_of
from clmr_tf.report.results import METRIC_NAMES, Result, Row, read_results

_MAIN_TASK = "pseudo-tags"
_INTRODUCTION = """\
## Music of games
`python -m benchmarks.real_music`, on [{corpus}](debian_games.md): {num_train} songs to train on, {num_test} in
the test split. CLMR of half width was trained without labels for {num_steps:,} steps of {batch_size} pairs; the
supervised SampleCNN has the same width. {protocols}
Intervals are 95 % intervals over the test songs. [All numbers](real_music/report.md), with ROC-AUC, tag by tag, and
the settings of each training.
"""
_PROTOCOLS = {
    "released": "In the released protocol, a head is trained on one crop of each song.",
    "thesis": "In the thesis' protocol, it is trained on all chunks of each song.",
}
_PSEUDO_TAGS = """\
### Pseudo-tags, macro PR-AUC, by fraction of the labelled songs
The labels are predictions of MTT_musicnn, so its own features are an upper bound, not a competitor.
"""
_SEVERAL_DRAWS = """\
Few labels were drawn several times, with seeds that also change untrained and supervised weights, crops and the
initial weights of a head. These rows have mean ± standard deviation, and the means of both ends of the intervals.
"""


def record(models: Path, records: Path) -> None:
    """Copies the results and manifests of the benchmark, and removes those that were recorded before.

    Args:
        models: Folder of the model folders.
        records: Folder to keep the copies in.

    Raises:
        UsageError: If there is no model folder.
    """
    found = sorted(path.parent for path in models.glob("*/manifest.json"))
    if not found:
        raise UsageError(f"There is no model folder in {models}; run python -m benchmarks.real_music first.")
    # Together with an earlier record the report would average both.
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
    """The section of results.md, empty if nothing is recorded; also writes report.md and its pictures.

    Raises:
        UsageError: If CLMR is not among what is recorded.
    """
    if not records.is_dir():
        return ""
    report(ReportConfig(results=records, out=records))
    results = read_results(records)
    scored = (one for one in results if one.name == "CLMR linear" and one.task == _MAIN_TASK and not _is_ablation(one))
    clmr = next(scored, None)
    if clmr is None:
        raise UsageError(f"{records} has no result of CLMR with the {_MAIN_TASK}; run python -m benchmarks.real_music.")
    lines = [
        _INTRODUCTION.format(
            corpus=clmr.corpus["name"],
            num_train=clmr.labels["of"]["num_songs"],
            num_test=clmr.scores["test"]["num_songs"],
            num_steps=clmr.training.step,
            batch_size=clmr.training.settings["batch_size"],
            protocols=" ".join(text for name, text in _PROTOCOLS.items() if name in {one.preset for one in results}),
        )
    ]
    for one in sections_of(results):
        if one.first.task == _MAIN_TASK:
            draws = [_SEVERAL_DRAWS] if any(len(row.results) > 1 for row in one.rows) else []
            rows = [row for row in one.rows if not _is_ablation(row.first)]
            lines += [_PSEUDO_TAGS, *draws, *label_table(label_curves(rows, "songs"), {}), ""]
            lines += [_labels(rows), ""]
            curves = records / f"{one.slug}-few-labels.png"
            if curves.is_file():
                lines += [f"![PR-AUC by fraction of the labelled songs]({records.name}/{curves.name})", ""]
        else:
            metric = one.rows[0].metric
            lines += [f"### {one.first.task.capitalize()}, {METRIC_NAMES[metric]}", "", *_scores(one.rows, metric), ""]
        for rows in ablations(one.rows):
            table = ablation_table(rows, ["average_precision"])
            lines += [f"### Each augmentation alone, pseudo-tags\n{ablation_title(rows)}.\n", *table, ""]
    return "\n".join(lines)


def _is_ablation(result: Result) -> bool:
    training = result.training
    return training is not None and result.objective == "contrastive" and training.augmentation != "released"


def _labels(rows: Sequence[Row]) -> str:
    """How many songs each fraction of the labels is, from the rows that have the most fractions."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(f"{row.name} {row.first.preset}", []).append(row)
    texts = [row.labels_text for row in max(by_name.values(), key=len)]
    labels = "; ".join(reversed(texts))
    return f"Labels: {labels}. The valid split, which decides when training stops, keeps all its labels."


def _scores(rows: Sequence[Row], metric: str) -> list[str]:
    scores = [(row.name, row.score(metric)) for row in rows]
    lines = [[name, str(score), score.interval_text] for name, score in scores]
    return markdown_table(["features and head", METRIC_NAMES[metric], "95 %"], lines)
