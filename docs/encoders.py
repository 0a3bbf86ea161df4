"""The section of results.md about encoders, from the tables of `python -m benchmarks.encoders --minutes`.

encoders.json is a copy of the tables; pictures of it are encoders-few-labels.png and encoders-time.png.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from benchmarks.encoder_table import METRIC_NAMES, TRAININGS_IN_WORDS, markdown, write_tables
from clmr_tf.files import write_atomically
from clmr_tf.report.pictures import png_of

RECORD = "encoders.json"
_TITLE = "## Encoders, trained for the same time\n"
_HOW = """\
`python -m benchmarks.encoders --minutes {minutes:g} --seeds {seeds} --width {width:g}` trains every encoder by CLMR and
with labels, and scores it by the [standard protocol and by retrieval](evaluation.md). The pseudo-tags are predictions
of MTT_musicnn, so its own features are an upper bound there, not a competitor. Intervals of PR-AUC
[lie high](evaluation.md#scores); those of differences do so much less.
"""
_NOT_RECORDED = """\
Not measured yet: `python -m benchmarks.encoders --minutes 30 --seeds 2` measures, and
`python -m docs.make --record-encoders results/encoders` writes its tables here.
"""


def record(results: Path, folder: Path) -> None:
    """Copies the tables of a comparison, also of an unfinished one, to the folder of the documents."""
    write_atomically(folder / RECORD, json.dumps(write_tables(results), indent=1) + "\n")


def section(folder: Path) -> str:
    """The section of results.md; also draws the pictures."""
    path = folder / RECORD
    if not path.is_file():
        return f"{_TITLE}{_NOT_RECORDED}"
    table = json.loads(path.read_text(encoding="utf-8"))
    lines = [_TITLE + _HOW.format(**table["settings"], seeds=_num_seeds(table)), markdown(table)]
    for name, rows, x, x_label in (
        ("encoders-few-labels", table["few_labels"], "labels", "fraction of the labelled songs"),
        ("encoders-time", table["curves"], "minutes", "minutes of training, seed 1"),
    ):
        if rows:
            figure = draw(rows, table["columns"], x, x_label)
            (folder / f"{name}.png").write_bytes(png_of(figure))
            lines.append(f"![Scores by {x_label}]({name}.png)\n")
    return "\n".join(lines)


def draw(rows: Sequence[dict[str, Any]], columns: dict[str, str], x: str, x_label: str) -> Figure:
    """Draws scores with their intervals, a panel for each column and a line for each encoder and training.

    Args:
        rows: Of "few_labels" or "curves" of the tables.
        columns: Metric by column.
        x: The entry of a row that is drawn along the axis.
        x_label: What it is.
    """
    panels = list(dict.fromkeys(row["column"] for row in rows))
    figure, axes = plt.subplots(1, len(panels), figsize=(6 * len(panels), 4), layout="constrained", squeeze=False)
    # The same in all panels, also if a panel lacks a network.
    colours = {name: f"C{position}" for position, name in enumerate(dict.fromkeys(map(_line_name, rows)))}
    for panel, column in zip(axes[0], panels, strict=True):
        for name, colour in colours.items():
            points = [
                row
                for row in rows
                if row["column"] == column and row["interval"] is not None and _line_name(row) == name
            ]
            if not points:
                continue
            values = [point["mean"] for point in points]
            # A resampling may be on one side of the mean only.
            errors = [
                [max(0.0, sign * (point["mean"] - point["interval"][end])) for point in points]
                for end, sign in ((0, 1), (1, -1))
            ]
            panel.errorbar(
                [point[x] for point in points], values, yerr=errors, label=name, color=colour, capsize=3, marker="o"
            )
        panel.set(title=column, xlabel=x_label, ylabel=METRIC_NAMES[columns[column]])
        if x == "labels":
            panel.set_xscale("log")
            fractions = sorted({row["labels"] for row in rows})
            panel.set_xticks(fractions, [f"{100 * fraction:g} %" for fraction in fractions])
            panel.minorticks_off()
        panel.legend(frameon=False, fontsize="small")
    return figure


def _line_name(row: dict[str, Any]) -> str:
    training = TRAININGS_IN_WORDS[row["training"]] if "training" in row else None
    return " ".join(filter(None, [row["encoder"], training]))


def _num_seeds(table: dict[str, Any]) -> int:
    counts = [
        one["num_results"] for row in table["rows"] if row["training"] == "clmr" for one in row["scores"].values()
    ]
    return max(counts, default=1)
