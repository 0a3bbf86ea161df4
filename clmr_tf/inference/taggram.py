"""The taggram: a plot of tag probabilities over time."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from clmr_tf.console import minutes_and_seconds
from clmr_tf.inference.encoder import Tagging

matplotlib.use("Agg")


_INCHES_PER_TAG = 0.26
# Dollar signs in names do not mark formulas.
_PLAIN_TEXT: Any = plt.rc_context({"text.parse_math": False})


@_PLAIN_TEXT
def draw_taggram(tagging: Tagging, window_seconds: float, num_tags: int, title: str) -> bytes:
    """A PNG with one row per tag, the most likely first, and time from left to right.

    Args:
        tagging: The tags of at least one window.
        window_seconds: Length of a window.
        num_tags: Number of tags to show.
        title: Title of the plot.
    """
    figure = taggram_figure(tagging, window_seconds, num_tags, title)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120, metadata={"Software": None})
    plt.close(figure)
    return content.getvalue()


def taggram_figure(tagging: Tagging, window_seconds: float, num_tags: int, title: str) -> Figure:
    """The figure of `draw_taggram`; the caller closes it."""
    shown = [name for name, _ in tagging.top(num_tags)]
    columns = [tagging.tag_names.index(name) for name in shown]
    rows = tagging.probabilities[:, columns].T
    figure, axes = plt.subplots(figsize=(9, 1.4 + _INCHES_PER_TAG * len(shown)), layout="constrained")
    edges = _edges_of(tagging.times_seconds, window_seconds)
    # The scale does not go up to 1, because the probabilities of many models never get close to it.
    mesh = axes.pcolormesh(edges, np.arange(len(shown) + 1), rows, cmap="magma", vmin=0, vmax=rows.max())
    axes.set_yticks(np.arange(len(shown)) + 0.5, shown)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _place: minutes_and_seconds(seconds)))
    axes.set_xlabel("time, minutes:seconds")
    axes.set_title(title, loc="left", fontsize="medium")
    figure.colorbar(mesh, label="probability")
    return figure


def _edges_of(times_seconds: Sequence[float], window_seconds: float) -> np.ndarray:
    """Edges of the columns; each column is centred on the middle of its window, also if windows overlap."""
    middles = np.asarray(times_seconds) + window_seconds / 2
    half_hop = (middles[1] - middles[0]) / 2 if len(middles) > 1 else window_seconds / 2
    return np.append(middles - half_hop, middles[-1] + half_hop)
