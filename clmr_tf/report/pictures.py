"""Pictures of a report: curves over the share of labels, bars of tags, bars of augmentations."""

import io
import itertools
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from clmr_tf.report.comparisons import Ablation, LabelCurve, TagComparison
from clmr_tf.report.published import Published, PublishedCurve
from clmr_tf.report.results import METRIC_NAMES, NOTHING, Score, share_words

matplotlib.use("Agg")


_COLOURS = {
    "majority": "#a0a0a0",
    "mel statistics": "#2f8f5b",
    "untrained SampleCNN": "#6b6b6b",
    "SampleCNN supervised": "#e07b00",
    "CLMR": "#1f4e8c",
    "CLMR MLP": "#6f9fd8",
    "CLMR fine-tuned": "#a03060",
}
_OTHER_COLOURS = ("#7b5ea7", "#b5a000", "#3aa6a6", "#c2708f", "#5a7d2a", "#9c5a3c")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_PUBLISHED_COLOUR = "#9db7d5"
# A tag with dollar signs is no formula.
_PLAIN_TEXT: Any = plt.rc_context({"text.parse_math": False})
_NUM_LETTERS = 44


@_PLAIN_TEXT
def draw_label_curves(
    panels: Sequence[tuple[str, Sequence[LabelCurve], Sequence[PublishedCurve]]], metric: str
) -> bytes:
    """A PNG with a panel for each way to choose labels.

    Args:
        panels: Title, curves with their intervals as bands, and published curves, which are dashed.
        metric: A name in `METRIC_NAMES`.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(6.2 * len(panels), 4.6), layout="constrained", squeeze=False, sharey=True
    )
    styles = _styles_of({curve.name: curve.base_name for _, curves, _ in panels for curve in curves})
    for panel, (title, curves, published) in zip(axes[0], panels, strict=True):
        for curve in curves:
            _draw_curve(panel, curve, *styles[curve.name])
        for curve in published:
            shares, values = zip(*curve.points, strict=True)
            label = _wrapped(f"published: {curve.name}")
            panel.plot(shares, [float(value) for value in values], "--", color=_colour_of(curve.name), label=label)
        points = [*(curve.points for curve in curves), *(curve.points for curve in published)]
        ticks = sorted({share for of_curve in points for share, _ in of_curve})
        panel.set_xscale("log")
        panel.set_xticks(ticks, [share_words(share).removesuffix(" %") for share in ticks])
        panel.minorticks_off()
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("labels, %")
        panel.grid(axis="y", color="#e5e5e5", linewidth=0.6)
        panel.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2)
    axes[0][0].set_ylabel(METRIC_NAMES[metric])
    return _png(figure)


@_PLAIN_TEXT
def draw_tags(comparison: TagComparison) -> bytes:
    """A PNG with two bars for each tag, the first tag on top, in a panel for PR-AUC and one for ROC-AUC."""
    tags, rows = comparison.tags, (comparison.model, comparison.other)
    figure, axes = plt.subplots(1, 2, figsize=(11, 1.5 + 0.3 * len(tags)), layout="constrained", sharey=True)
    places = np.arange(len(tags))
    colours = [_colour_of(row.name) for row in rows]
    for panel, metric in zip(axes, ("average_precision", "roc_auc"), strict=True):
        for row, colour, shift in zip(rows, colours, (-0.2, 0.2), strict=True):
            values = row.per_tag(metric)
            panel.barh(places + shift, [values[tag] for tag in tags], height=0.4, color=colour, label=row.name)
        panel.set(xlim=(0, 1), xlabel=METRIC_NAMES[metric])
        panel.set_ylim(len(tags) - 0.4, -0.6)
    axes[0].set_yticks(places, tags)
    # Half right is what guessing gives, whatever the tag.
    axes[1].axvline(0.5, color="#a0a0a0", linewidth=0.8)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return _png(figure)


@_PLAIN_TEXT
def draw_ablation(ablation: Ablation, metric: str, published: Published) -> bytes:
    """A PNG with the bars of an ablation, and beside them what was published on MagnaTagATune, if anything was."""
    beside = [published.ablation_beside(row) for row in ablation.rows]
    num_panels = 2 if any(beside) else 1
    size = (5.5 * num_panels, 1.2 + 0.36 * len(beside))
    figure, axes = plt.subplots(1, num_panels, figsize=size, layout="constrained", sharey=True, squeeze=False)
    places = np.arange(len(beside))
    scores = [row.score(metric) for row in ablation.rows]
    _draw_bars(axes[0][0], [score.mean for score in scores], scores, _COLOURS["CLMR"], f"here: {METRIC_NAMES[metric]}")
    if any(beside):
        values = [float(one.scores["average_precision"]) if one else None for one in beside]
        title = "published, MagnaTagATune: PR-AUC"
        _draw_bars(axes[0][1], values, [None] * len(values), _PUBLISHED_COLOUR, title)
    axes[0][0].set_yticks(places, [_wrapped(words) for words in ablation.augmentations])
    axes[0][0].set_ylim(len(places) - 0.4, -0.6)
    return _png(figure)


def _styles_of(base_names: dict[str, str]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each curve; one that has the colour of its kind taken gets another."""
    styles: dict[str, tuple[str, str]] = {}
    for (name, base_name), marker in zip(base_names.items(), itertools.cycle(_MARKERS), strict=False):
        taken = [colour for colour, _ in styles.values()]
        # With more curves than colours, the markers tell them apart.
        colour = min([_colour_of(base_name), *_OTHER_COLOURS], key=taken.count)
        styles[name] = (colour, marker)
    return styles


def _colour_of(name: str) -> str:
    known = [colour for start, colour in _COLOURS.items() if name == start or name.startswith(f"{start} ")]
    # The last one, since "CLMR MLP" begins as "CLMR" does.
    return known[-1] if known else _OTHER_COLOURS[0]


def _wrapped(name: str) -> str:
    return textwrap.fill(name, _NUM_LETTERS)


def _png(figure: Figure) -> bytes:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    # A name of the program would tell its version, and the same results shall give the same bytes.
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def _draw_curve(panel: plt.Axes, curve: LabelCurve, colour: str, marker: str) -> None:
    scored = [(share, score) for share, score in curve.points if score.mean is not None]
    shares, means = [share for share, _ in scored], [score.mean for _, score in scored]
    panel.plot(shares, means, color=colour, marker=marker, markersize=5, label=_wrapped(curve.name))
    bands = [(share, *score.interval) for share, score in scored if score.interval is not None]
    if len(bands) == 1:
        # A band of one point cannot be seen.
        panel.vlines(*bands[0], color=colour, linewidth=0.8)
    elif bands:
        at, low, high = zip(*bands, strict=True)
        panel.fill_between(at, low, high, color=colour, alpha=0.1, linewidth=0)


def _draw_bars(
    panel: plt.Axes, values: Sequence[float | None], scores: Sequence[Score | None], colour: str, title: str
) -> None:
    """Bars from 0, each with its value at the right end of the panel and its interval if it has one."""
    places = np.arange(len(values))
    panel.barh(places, [value or 0 for value in values], height=0.7, color=colour)
    right = max([value for value in values if value is not None], default=1)
    for place, value, score in zip(places, values, scores, strict=True):
        if score is not None and score.interval is not None:
            panel.plot(score.interval, (place, place), color="#e07b00", linewidth=1.4)
            right = max(right, score.interval[1])
        text = NOTHING if value is None else f"{value:.3f}"
        panel.annotate(
            text, (1, place), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points", va="center"
        )
    panel.set_xlim(0, 1.03 * right)
    panel.set_title(title, fontsize=10)
