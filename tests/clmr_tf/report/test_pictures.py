"""The pictures show the numbers: lengths of bars, points of curves, dashes of what is published; in the same bytes."""

import io
from decimal import Decimal

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from clmr_tf.report.comparisons import LabelCurve, ablations, tag_comparison
from clmr_tf.report.pictures import draw_ablation, draw_label_curves, draw_tags
from clmr_tf.report.published import PublishedCurve, read_published
from clmr_tf.report.results import Score, read_results, rows_of
from tests.clmr_tf.report.written_results import result, write, write_manifest

CLMR, SUPERVISED, PUBLISHED = "#1f4e8c", "#e07b00", "#9db7d5"


def pixels_of(picture: bytes) -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(picture))[..., :3]


def coloured(pixels: np.ndarray, colour: str) -> np.ndarray:
    return np.abs(pixels - to_rgb(colour)).max(axis=-1) < 0.01


def bars_of(pixels: np.ndarray, colour: str) -> list[int]:
    """Lengths in pixels of the bars of a colour, from top to bottom."""
    rows = coloured(pixels, colour).sum(axis=1)
    # A legend has a patch of the colour as well, which is small.
    is_bar = rows > 40
    starts = np.flatnonzero(is_bar & ~np.append(False, is_bar[:-1]))
    ends = np.flatnonzero(is_bar & ~np.append(is_bar[1:], False))
    return [int(np.median(rows[start : end + 1])) for start, end in zip(starts, ends, strict=True)]


@pytest.fixture
def rows(tmp_path):
    def write_one(name: str, plain, **training):
        if training:
            write_manifest(tmp_path / name, **training)
        write(tmp_path / name / "evaluation-x.json", plain)

    values = {"guitar": 0.2, "piano": 0.6, "harp": 0.4}
    write_one("none", result(0.3, kind="model", model_hash="1"), augmentation="none")
    write_one("filter", result(values, kind="model", model_hash="2", valid=0.8), augmentation="only-filter")
    halves = {tag: value / 2 for tag, value in values.items()}
    write_one("own", result(halves, kind="model", head="own", model_hash="3"), objective="supervised")
    return rows_of(read_results(tmp_path)[0])[0]


def test_bars_of_tags_are_as_long_as_the_scores(rows):
    picture = draw_tags(tag_comparison(rows))
    pixels = pixels_of(picture)
    left, right = pixels[:, : pixels.shape[1] // 2], pixels[:, pixels.shape[1] // 2 :]
    # Piano, harp and guitar, by the model's PR-AUC; the ROC-AUC is a tenth more, of both.
    model, supervised = bars_of(left, CLMR), bars_of(left, SUPERVISED)
    assert np.divide(model, model[0]) == pytest.approx([1, 2 / 3, 1 / 3], abs=0.02)
    assert np.divide(supervised, model) == pytest.approx([0.5, 0.5, 0.5], abs=0.02)
    assert np.divide(bars_of(right, CLMR), model[0]) == pytest.approx([0.7 / 0.6, 0.5 / 0.6, 0.3 / 0.6], abs=0.03)
    assert picture == draw_tags(tag_comparison(rows))


def test_bars_of_augmentations_beside_the_published_ones(rows):
    (ablation,) = ablations(rows)
    picture = draw_ablation(ablation, "average_precision", read_published())
    pixels = pixels_of(picture)
    none, filtered = bars_of(pixels, CLMR)
    assert none / filtered == pytest.approx(0.3 / 0.4, abs=0.03)
    none, filtered = bars_of(pixels, PUBLISHED)
    assert none / filtered == pytest.approx(30.49 / 33.32, abs=0.01)
    assert coloured(pixels, SUPERVISED).any()
    assert picture == draw_ablation(ablation, "average_precision", read_published())


def test_an_ablation_without_published_numbers_has_one_panel(tmp_path):
    for number, augmentation in enumerate(("released", "thesis")):
        write_manifest(tmp_path / augmentation, augmentation=augmentation)
        write(tmp_path / augmentation / "evaluation-x.json", result(0.3, kind="model", model_hash=f"{number}"))
    (ablation,) = ablations(rows_of(read_results(tmp_path)[0])[0])
    pixels = pixels_of(draw_ablation(ablation, "average_precision", read_published()))
    assert not coloured(pixels, PUBLISHED).any() and len(bars_of(pixels, CLMR)) == 2


def curve(name: str, *points: tuple[float, float], width: float = 0.02) -> LabelCurve:
    return LabelCurve(
        name, name, tuple((share, Score(mean, (mean - width, mean + width), None)) for share, mean in points)
    )


def line_of(pixels: np.ndarray, colour: str) -> np.ndarray:
    """The mean row of the colour in each column that has it, above the legend."""
    mask = coloured(pixels[: int(0.8 * len(pixels))], colour)
    columns = np.flatnonzero(mask.any(axis=0))
    return np.array([(column, np.flatnonzero(mask[:, column]).mean()) for column in columns])


def test_curves_lie_over_the_logarithm_of_the_share():
    curves = [
        curve("CLMR linear", (0.01, 0.3), (0.1, 0.4), (1.0, 0.5)),
        curve("SampleCNN supervised", (0.01, 0.1), (1.0, 0.3)),
    ]
    panels = [("labels", curves, [])]
    picture = draw_label_curves(panels, "average_precision")
    line = line_of(pixels_of(picture), CLMR)
    # Straight, since the score rises by the same with every factor of ten.
    slope, start = np.polyfit(*line.T, 1)
    assert slope < -0.1 and np.abs(line[:, 1] - (slope * line[:, 0] + start)).max() < 4
    other = line_of(pixels_of(picture), SUPERVISED)
    rises = [np.ptp(np.polyval(np.polyfit(*one.T, 1), one[:, 0])) for one in (line, other)]
    assert rises[0] == pytest.approx(rises[1], rel=0.05)
    # Rows are counted from the top, and the share of one percent is at the left.
    assert other[0, 1] - line[0, 1] == pytest.approx(rises[0], rel=0.05)
    assert picture == draw_label_curves(panels, "average_precision")


def test_published_curves_are_dashed_and_intervals_are_bands():
    points = tuple((share, Decimal("0.35")) for share in (0.01, 0.1, 1.0))
    solid = pixels_of(draw_label_curves([("labels", [curve("CLMR linear", (0.01, 0.3), (1.0, 0.3))], [])], "accuracy"))
    dashed = pixels_of(draw_label_curves([("labels", [], [PublishedCurve("CLMR linear", "x", points)])], "accuracy"))
    gaps = [np.diff(line_of(pixels, CLMR)[:, 0]).max() for pixels in (solid, dashed)]
    assert gaps[0] == 1 and gaps[1] > 3
    wide = pixels_of(
        draw_label_curves([("labels", [curve("CLMR linear", (0.01, 0.3), (1.0, 0.3), width=0.1)], [])], "accuracy")
    )
    # The band is a tenth of the colour over white.
    tint = tuple(0.9 + 0.1 * part for part in to_rgb(CLMR))
    shares = [np.mean(np.abs(pixels - tint).max(axis=-1) < 0.02) for pixels in (wide, dashed)]
    assert shares[0] > 0.2 and shares[1] < 0.01


def test_every_curve_has_a_colour_of_its_own():
    names = [
        "majority",
        "mel statistics linear",
        "untrained SampleCNN linear",
        "untrained SampleCNN MLP",
        "CLMR linear",
    ]
    names += ["CLMR MLP", "CLMR fine-tuned", "SampleCNN supervised", "musicnn linear", "CLMR linear, width 0.5"]
    curves = [
        LabelCurve(one.name, one.name.split(",")[0], one.points)
        for one in (curve(name, (0.01, 0.05 * place), (1.0, 0.05 * place)) for place, name in enumerate(names, start=1))
    ]
    pixels = pixels_of(draw_label_curves([("labels", curves, [])], "average_precision"))
    top = pixels[: int(0.67 * len(pixels))]
    colours, counts = np.unique((255 * top).round().astype(int).reshape(-1, 3), axis=0, return_counts=True)
    # A line is two pixels high and as wide as its panel; bands and the edges of lines are lighter, the axes are thin.
    assert ((colours.min(axis=1) < 170) & (counts > 900)).sum() == len(names)
