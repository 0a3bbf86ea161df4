"""The published numbers: those of the paper, each with a source, each beside the rows it belongs to and no others."""

import itertools
from decimal import Decimal

import pytest

from clmr_tf.reporting.published import read_published
from clmr_tf.reporting.result_files import read_results
from clmr_tf.reporting.rows import rows_of
from tests.clmr_tf.reporting.written_results import result, write, write_manifest

MAGNATAGATUNE, MSD, GTZAN = "magnatagatune-pons2017", "msd-lee2017", "gtzan-fault-filtered"


@pytest.fixture
def row_of(tmp_path):
    """The row of one result on a published corpus, of a model that was trained with these settings, if any."""

    def make(corpus: str, training: dict | None = None, **options):
        options = {"kind": "model", **options} if training is not None else options
        if training is not None:
            write_manifest(tmp_path, **{"trained_on": corpus, **training})
        write(tmp_path / "evaluation-x.json", result(0.3, corpus=corpus, **options))
        found, skipped = read_results(tmp_path)
        assert skipped == []
        ((row,), _) = rows_of(found)
        return row

    return make


def percent(row, *metrics: str) -> list[str]:
    """The scores as they were published."""
    return [str(row.scores[metric].scaleb(2)) for metric in metrics or ("roc_auc", "average_precision")]


def test_every_number_has_a_source_and_its_digits():
    published = read_published()
    assert len(published.rows) > 100
    for row in published.rows:
        assert row.scores and all(0 < score < 1 for score in row.scores.values())
        assert published.sources[row.source].address.startswith("https://")
        assert row.corpus in published.num_test_clips
    assert {row.source for row in published.rows} == set(published.sources)
    digits = {str(row.scores["average_precision"]) for row in published.rows if "average_precision" in row.scores}
    # 36.0, 35.37, 30.50 and 24 percent.
    assert {"0.360", "0.3537", "0.3050", "0.24"} <= digits


@pytest.mark.parametrize(
    ("corpus", "training", "options", "numbers", "source"),
    [
        (MAGNATAGATUNE, {}, {}, ["88.7", "35.6"], "readme"),
        (MAGNATAGATUNE, {"augmentation": "thesis"}, {"head": "mlp", "preset": "thesis"}, ["89.3", "36.0"], "readme"),
        (MAGNATAGATUNE, {}, {"preset": "grid"}, ["89.4", "36.1"], "tune"),
        (MAGNATAGATUNE, {"objective": "supervised"}, {"head": "own"}, ["88.56", "34.38"], "thesis"),
        (MAGNATAGATUNE, {"trained_on": MSD}, {}, ["86.57", "32.04"], "thesis"),
        (MAGNATAGATUNE, {"trained_on": "fma-medium"}, {"head": "mlp"}, ["86.63", "31.22"], "thesis"),
        (MAGNATAGATUNE, {"trained_on": "billboard"}, {}, ["82.73", "26.86"], "thesis"),
        (MAGNATAGATUNE, {"trained_on": GTZAN}, {"head": "mlp"}, ["85.43", "29.49"], "thesis"),
        (MAGNATAGATUNE, {"augmentation": "none", "sample_rate_hz": 8000}, {}, ["84.78", "29.77"], "thesis"),
        (MAGNATAGATUNE, {"augmentation": "none", "temperature": 0.1}, {}, ["85.82", "30.33"], "thesis"),
        (MSD, {}, {}, ["85.66", "24.98"], "thesis"),
    ],
)
def test_main_numbers_stand_beside_the_rows_that_repeat_them(row_of, corpus, training, options, numbers, source):
    found = read_published().beside(row_of(corpus, training, **options))
    assert (percent(found), found.source) == (numbers, source)


@pytest.mark.parametrize(
    ("training", "options", "number"),
    [
        ({"augmentation": "only-filter"}, {}, "33.32"),
        ({"augmentation": "none"}, {}, "30.49"),
        ({"augmentation": "only-pitch", "augmentation_changes": ["pitch.probability=0.4"]}, {}, "31.57"),
        ({}, {"choice": "like-paper", "share": 0.01}, "33.12"),
        ({}, {"choice": "like-paper", "share": 0.5}, "34.53"),
        ({"objective": "supervised"}, {"head": "own", "choice": "like-paper", "share": 0.01}, "24.81"),
        (None, {"kind": "untrained"}, "15.38"),
    ],
)
def test_numbers_of_the_figures_stand_beside_their_rows(row_of, training, options, number):
    found = read_published().beside(row_of(MAGNATAGATUNE, training, **options))
    assert (percent(found, "average_precision"), found.source) == ([number], "notebook")


def test_accuracies_of_gtzan(row_of):
    found = {
        head: read_published().beside(row_of(GTZAN, training, accuracy=0.5, head=head))
        for head, training in (("linear", {"trained_on": MAGNATAGATUNE}), ("own", {"objective": "supervised"}))
    }
    assert {head: percent(row, "accuracy") for head, row in found.items()} == {"linear": ["55.2"], "own": ["49.7"]}


@pytest.mark.parametrize(
    ("corpus", "training", "options"),
    [
        # Another split, another task, labels chosen in another way, another training than the published one.
        ("magnatagatune-clean", {}, {}),
        (MAGNATAGATUNE, {}, {"task": "instruments"}),
        (MAGNATAGATUNE, {}, {"choice": "songs", "share": 0.01}),
        (MAGNATAGATUNE, {}, {"choice": "like-paper", "share": 0.03}),
        (MAGNATAGATUNE, {"temperature": 0.1}, {}),
        (MAGNATAGATUNE, {"augmentation": "only-filter", "augmentation_changes": ["filter.probability=0.5"]}, {}),
        (MAGNATAGATUNE, {"trained_on": "demo"}, {}),
        (MAGNATAGATUNE, None, {"kind": "model"}),
        (MAGNATAGATUNE, None, {"kind": "mel"}),
        ("songs", {}, {}),
    ],
)
def test_no_number_stands_beside_what_does_not_repeat_it(row_of, corpus, training, options):
    assert read_published().beside(row_of(corpus, training, **options)) is None


def test_no_row_has_two_numbers_beside_it():
    """Any two published rows on one corpus ask for different values of one fact."""
    rows = [row for row in read_published().rows if row.like]
    for one, other in itertools.combinations(rows, 2):
        differing = [
            fact for fact in one.like if fact in other.like and not set(one.like[fact]) & set(other.like[fact])
        ]
        assert one.corpus != other.corpus or differing, f"{one.table}: {one.name} and {other.table}: {other.name}"


def test_curves_of_the_paper(row_of):
    published = read_published()
    curves = published.curves(row_of(MAGNATAGATUNE).first)
    assert [(curve.name, curve.source) for curve in curves] == [
        ("CLMR linear", "notebook"),
        ("SampleCNN supervised", "notebook"),
    ]
    clmr, supervised = (dict(curve.points) for curve in curves)
    assert list(clmr) == list(supervised) == [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    assert (clmr[0.01], clmr[1.0]) == (Decimal("0.3312"), Decimal("0.3511"))
    assert (supervised[0.01], supervised[1.0]) == (Decimal("0.2481"), Decimal("0.349"))
    assert [str(curve.points[3][1]) for curve in published.curves(row_of(MSD).first)] == ["0.2327", "0.2306"]
    assert published.curves(row_of("songs").first) == []


def test_the_ablation_stands_beside_any_corpus_and_full_chains_do_not(row_of):
    published = read_published()
    found = published.ablation_beside(row_of("songs", {"augmentation": "only-reverb"}))
    assert (found.name, percent(found, "average_precision")) == ("reverb", ["31.70"])
    assert percent(published.ablation_beside(row_of("songs", {"augmentation": "none"})), "average_precision") == [
        "30.49"
    ]
    assert published.ablation_beside(row_of("songs", {"augmentation": "thesis"})) is None
    changed = {"augmentation": "only-gain", "augmentation_changes": ["gain.gain_db=[-3, 0]"]}
    assert published.ablation_beside(row_of("songs", changed)) is None
