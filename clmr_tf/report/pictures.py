"""Figures of a report."""

import io
from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from clmr_tf.report.comparisons import augmentation_text, common_tags
from clmr_tf.report.published import PublishedRow
from clmr_tf.report.results import METRIC_NAMES, Row, Score, format_percent

matplotlib.use("Agg")

# Dollar signs in the name of a tag do not mark a formula.
plt.rcParams["text.parse_math"] = False

Panel = tuple[str, Mapping[str, Mapping[float, Score]], Mapping[str, Sequence[tuple[float, float]]]]
"""Title, curves with intervals, and published curves, each by name."""


def draw_label_curves(panels: Sequence[Panel], metric: str) -> Figure:
    """Draws scores over the fraction of labels, with a panel for each way to select labels."""
    size = (6.2 * len(panels), 4.6)
    figure, axes = plt.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False, sharey=True)
    names = dict.fromkeys(name for _, curves, published in panels for name in (*curves, *published))
    colours = {name: f"C{number}" for number, name in enumerate(names)}
    for panel, (title, curves, published) in zip(axes[0], panels, strict=True):
        for name, points in curves.items():
            scored = {fraction: score for fraction, score in points.items() if score.mean is not None}
            means = [score.mean for score in scored.values()]
            panel.plot(list(scored), means, "o-", color=colours[name], label=name, markersize=4)
            for fraction, score in scored.items():
                if score.interval is not None:
                    panel.vlines(fraction, *score.interval, color=colours[name], linewidth=0.8)
        for name, points in published.items():
            panel.plot(*zip(*points, strict=True), "--", color=colours[name], label=name)
        fractions = sorted({point for points in (*curves.values(), *map(dict, published.values())) for point in points})
        panel.set_xscale("log")
        panel.set_xticks(fractions, map(format_percent, fractions))
        panel.minorticks_off()
        panel.set(title=title, xlabel="labels")
        panel.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2)
    axes[0][0].set_ylabel(METRIC_NAMES[metric])
    return figure


def draw_tags(model: Row, other: Row) -> Figure:
    """Draws two bars for each tag, in a panel for PR-AUC and one for ROC-AUC."""
    tags = common_tags(model, other)
    figure, axes = plt.subplots(1, 2, figsize=(11, 1.5 + 0.3 * len(tags)), layout="constrained", sharey=True)
    places = np.arange(len(tags))
    for panel, metric in zip(axes, ("average_precision", "roc_auc"), strict=True):
        for row, shift in ((model, -0.2), (other, 0.2)):
            values = row.per_tag(metric)
            panel.barh(places + shift, [values[tag] for tag in tags], height=0.4, label=row.name)
        panel.set(xlim=(0, 1), xlabel=METRIC_NAMES[metric])
    axes[0].set_yticks(places, tags)
    axes[0].invert_yaxis()
    # The ROC-AUC of guessing; the average precision of guessing depends on the tag.
    axes[1].axvline(0.5, color="grey", linewidth=0.8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def draw_ablation(rows: Sequence[Row], published: Sequence[PublishedRow | None], metric: str) -> Figure:
    """Draws a bar for each augmentation, and in a second panel the published ones, if there are any."""
    num_panels = 2 if any(published) else 1
    size = (5.5 * num_panels, 1.2 + 0.36 * len(rows))
    figure, axes = plt.subplots(1, num_panels, figsize=size, layout="constrained", sharey=True, squeeze=False)
    scores = [row.score(metric) for row in rows]
    values = [
        [score.mean or 0 for score in scores],
        [row.scores["average_precision"] if row else 0 for row in published],
    ]
    titles = f"here: {METRIC_NAMES[metric]}", "published, MagnaTagATune: PR-AUC"
    for panel, widths, title in zip(axes[0], values, titles, strict=False):
        bars = panel.barh(range(len(rows)), widths, color="#9db7d5")
        panel.bar_label(bars, fmt=lambda width: f"{width:.3f}" if width else "", label_type="center")
        panel.set_title(title, fontsize=10)
    for place, score in enumerate(scores):
        if score.interval is not None:
            axes[0][0].hlines(place, *score.interval, color="black", linewidth=1)
    axes[0][0].set_yticks(range(len(rows)), map(augmentation_text, rows))
    axes[0][0].invert_yaxis()
    return figure


def png_of(figure: Figure) -> bytes:
    """The figure as a PNG with the same bytes for the same figure, and closes it."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    # Without the version of Matplotlib.
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()
