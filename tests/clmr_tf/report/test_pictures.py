"""Figures show the numbers: lengths of bars, points of lines, ends of intervals."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from clmr_tf.report.comparisons import ablations, tag_comparison
from clmr_tf.report.pictures import draw_ablation, draw_label_curves, draw_tags, png_of
from clmr_tf.report.published import published_ablation
from clmr_tf.report.results import Score
from tests.clmr_tf.report.written_results import result, rows_in


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def rows(tmp_path):
    values = {"guitar": 0.2, "piano": 0.6, "harp": 0.4}
    halves = {tag: value / 2 for tag, value in values.items()}
    return rows_in(
        tmp_path,
        (result(0.3, kind="model", model_hash="1"), {"augmentation": "none"}),
        (result(values, kind="model", model_hash="2", valid=0.8), {"augmentation": "only-filter"}),
        (result(halves, kind="model", head="own", model_hash="3"), {"objective": "supervised"}),
    )


def bars_of(panel) -> list[float]:
    return pytest.approx([bar.get_width() for bar in panel.patches])


def test_bars_of_tags_have_the_scores_of_both_rows(rows):
    figure = draw_tags(*tag_comparison(rows))
    precision, roc_auc = figure.axes
    assert [label.get_text() for label in precision.get_yticklabels()] == ["piano", "harp", "guitar"]
    assert bars_of(precision) == [0.6, 0.4, 0.2, 0.3, 0.2, 0.1]
    assert bars_of(roc_auc) == [0.7, 0.5, 0.3, 0.4, 0.3, 0.2]


def test_bars_of_augmentations_are_next_to_the_published_ones(rows):
    (ablation,) = ablations(rows)
    figure = draw_ablation(ablation, [published_ablation(row.first) for row in ablation], "average_precision")
    here, published = figure.axes
    assert [label.get_text() for label in here.get_yticklabels()] == ["crop alone", "filter"]
    assert bars_of(here) == [0.3, 0.4] and bars_of(published) == [0.3049, 0.3332]
    ends = [segments[0][:, 0] for line in here.collections for segments in [line.get_segments()]]
    assert np.array(ends) == pytest.approx(np.array([[0.26, 0.36], [0.36, 0.46]]))
    assert len(draw_ablation(ablation, [None, None], "average_precision").axes) == 1


def test_curves_have_points_intervals_and_published_curves():
    curve = {0.01: Score(0.3, (0.25, 0.32), None), 0.1: Score(None, None, None), 1.0: Score(0.5, (0.4, 0.6), 0.1)}
    panels = [("songs", {"a": curve}, {}), ("like-paper", {"a": curve}, {"published: a": [(0.01, 0.2), (1.0, 0.4)]})]
    figure = draw_label_curves(panels, "average_precision")
    first, second = figure.axes
    (line,) = first.lines
    assert line.get_xydata().tolist() == [[0.01, 0.3], [1.0, 0.5]] and first.get_xscale() == "log"
    ends = [collection.get_segments()[0].tolist() for collection in first.collections]
    assert ends == [[[0.01, 0.25], [0.01, 0.32]], [[1.0, 0.4], [1.0, 0.6]]]
    same, published = second.lines
    assert same.get_color() == line.get_color() != published.get_color()
    assert published.get_xydata().tolist() == [[0.01, 0.2], [1.0, 0.4]] and published.get_linestyle() == "--"


def test_names_with_dollar_signs_are_drawn_and_the_bytes_are_always_the_same(tmp_path):
    tags = (r"$\frac$ and $x_{$", "x")
    options = {"tags": tags}
    rows = rows_in(tmp_path, (result(0.5, kind="model", **options), {}), (result(0.5, **options), None))
    first, second = (png_of(draw_tags(*tag_comparison(rows))) for _ in range(2))
    assert first == second and first.startswith(b"\x89PNG")
