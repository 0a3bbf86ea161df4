"""The published numbers: those of the paper, each with a source, each beside the rows it belongs to and no others."""

import itertools
from decimal import Decimal

import pytest

from clmr_tf.report.published import read_published
from clmr_tf.report.results import read_results, rows_of
from tests.clmr_tf.report.written_results import result, write, write_manifest

MAGNATAGATUNE, MSD, GTZAN = "magnatagatune-pons2017", "msd-lee2017", "gtzan-fault-filtered"
# Trainings that numbers were published of; an epoch visits every clip in the first and every song in the others.
README = {"augmentation": "released", "sampling_unit": "clip", "batch_size": 48, "step": 10_000 * 389, "width": 1.0}
THESIS = {**README, "augmentation": "thesis", "sampling_unit": "song"}
ALONE = {**THESIS, "step": 500 * 81}
BY_LARS = {**THESIS, "batch_size": 96, "optimizer": "lars", "step": 3_000 * 40}
CROP = {**BY_LARS, "augmentation": "none", "step": 500 * 40}
SUPERVISED = {"objective": "supervised", "batch_size": 48, "width": 1.0}
BY_THESIS = {"preset": "thesis"}


@pytest.fixture
def row_of(tmp_path):
    """The row of one result on a published corpus, of a model that was trained with these settings, if any."""

    def make(corpus: str, training: dict | None = None, **options):
        if training is not None:
            options = {"kind": "model", "step": training.get("step", 100), **options}
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
        (MAGNATAGATUNE, README, {}, ["88.7", "35.6"], "readme"),
        (MAGNATAGATUNE, README, {"head": "mlp"}, ["89.3", "36.0"], "readme"),
        (MAGNATAGATUNE, README, {"preset": "grid"}, ["89.4", "36.1"], "tune"),
        (MAGNATAGATUNE, {**THESIS, "step": 1_550 * 81}, BY_THESIS, ["87.71", "34.27"], "readme"),
        (MAGNATAGATUNE, {**BY_LARS, "step": 1_000 * 40}, BY_THESIS, ["88.31", "34.40"], "thesis"),
        (MAGNATAGATUNE, BY_LARS, {**BY_THESIS, "head": "mlp"}, ["88.94", "35.46"], "thesis"),
        (MAGNATAGATUNE, {**BY_LARS, "step": 10_000 * 40}, BY_THESIS, ["88.47", "35.37"], "thesis"),
        (MAGNATAGATUNE, {**BY_LARS, "batch_size": 456, "step": 3_000 * 8}, BY_THESIS, ["88.13", "34.87"], "thesis"),
        (MAGNATAGATUNE, {**THESIS, "step": 3_000 * 81}, BY_THESIS, ["87.91", "34.56"], "thesis"),
        (MAGNATAGATUNE, SUPERVISED, {"head": "own"}, ["88.56", "34.38"], "thesis"),
        (MAGNATAGATUNE, {**THESIS, "trained_on": MSD, "step": 4_201_000}, BY_THESIS, ["86.57", "32.04"], "thesis"),
        (MAGNATAGATUNE, {**CROP, "sample_rate_hz": 8000}, BY_THESIS, ["84.78", "29.77"], "thesis"),
        (MAGNATAGATUNE, {**CROP, "temperature": 0.1}, BY_THESIS, ["85.82", "30.33"], "thesis"),
        (MAGNATAGATUNE, CROP, BY_THESIS, ["85.82", "30.49"], "thesis"),
        (MSD, {**THESIS, "step": 4_201_000}, BY_THESIS, ["85.66", "24.98"], "thesis"),
    ],
)
def test_main_numbers_stand_beside_the_rows_that_repeat_them(row_of, corpus, training, options, numbers, source):
    found = read_published().beside(row_of(corpus, training, **options))
    assert (percent(found), found.source) == (numbers, source)


@pytest.mark.parametrize(
    ("training", "options", "number"),
    [
        ({**ALONE, "augmentation": "only-filter"}, {}, "33.32"),
        ({**ALONE, "augmentation": "none"}, {}, "30.49"),
        ({**ALONE, "augmentation": "only-pitch", "augmentation_changes": ["pitch.probability=0.4"]}, {}, "31.57"),
        (BY_LARS, {"choice": "like-paper", "share": 0.01}, "33.12"),
        (BY_LARS, {"choice": "like-paper", "share": 0.5}, "34.53"),
        (SUPERVISED, {"head": "own", "preset": "released", "choice": "like-paper", "share": 0.01}, "24.81"),
        (None, {"kind": "untrained", "width": 1.0}, "15.38"),
    ],
)
def test_numbers_of_the_figures_stand_beside_their_rows(row_of, training, options, number):
    found = read_published().beside(row_of(MAGNATAGATUNE, training, **{**BY_THESIS, **options}))
    assert (percent(found, "average_precision"), found.source) == ([number], "notebook")


def test_of_the_accuracies_on_gtzan_those_of_the_tutorial_s_head_stand_beside_nothing(row_of):
    trained = {**README, "trained_on": MAGNATAGATUNE}
    found = read_published().beside(row_of(GTZAN, trained, accuracy=0.5, preset="grid"))
    assert percent(found, "accuracy") == ["68.6"]
    for training, options in (
        *((trained, {"preset": preset}) for preset in ("released", "thesis")),
        (SUPERVISED, {"head": "own"}),
        (None, {"kind": "untrained", "width": 1.0}),
    ):
        assert read_published().beside(row_of(GTZAN, training, accuracy=0.5, **options)) is None
    alone = {str(row.scores["accuracy"].scaleb(2)) for row in read_published().rows if row.corpus == GTZAN}
    assert alone == {"55.2", "68.6", "49.7", "10.7"}


@pytest.mark.parametrize(
    ("corpus", "training", "options"),
    [
        # Another split, another task, labels chosen in another way, another protocol.
        ("magnatagatune-clean", README, {}),
        (MAGNATAGATUNE, README, {"task": "instruments"}),
        (MAGNATAGATUNE, README, {"choice": "songs", "share": 0.01}),
        (MAGNATAGATUNE, README, BY_THESIS),
        (MAGNATAGATUNE, BY_LARS, {**BY_THESIS, "choice": "like-paper", "share": 0.03}),
        (MAGNATAGATUNE, BY_LARS, {}),
        # Another training than the published ones: first a toy.
        (MAGNATAGATUNE, {**README, "width": 0.25, "batch_size": 8, "step": 200}, {}),
        (MAGNATAGATUNE, {**README, "step": 200}, {}),
        (MAGNATAGATUNE, {**README, "batch_size": 8}, {}),
        (MAGNATAGATUNE, {**README, "width": 0.25}, {}),
        (MAGNATAGATUNE, {**README, "width": 0.25}, {"preset": "grid"}),
        (MAGNATAGATUNE, {**README, "sampling_unit": "song"}, {}),
        (MAGNATAGATUNE, {**README, "optimizer": "lars"}, {}),
        (MAGNATAGATUNE, {**README, "temperature": 0.1}, {}),
        (MAGNATAGATUNE, {**README, "trained_on": "demo"}, {}),
        (MAGNATAGATUNE, {**BY_LARS, "step": 2_000 * 40}, BY_THESIS),
        (MAGNATAGATUNE, {**ALONE, "augmentation": "only-filter", "step": 200}, BY_THESIS),
        (
            MAGNATAGATUNE,
            {**ALONE, "augmentation": "only-filter", "augmentation_changes": ["filter.probability=0.5"]},
            BY_THESIS,
        ),
        (MAGNATAGATUNE, {**SUPERVISED, "width": 0.5}, {"head": "own"}),
        (MAGNATAGATUNE, None, {"kind": "untrained", "width": 0.5, "preset": "thesis"}),
        (MAGNATAGATUNE, None, {"kind": "model"}),
        (MAGNATAGATUNE, None, {"kind": "mel"}),
        ("songs", README, {}),
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
    assert [len(curve.points) for curve in published.curves(row_of(MSD).first)] == [7, 7]
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


@pytest.mark.parametrize(
    ("corpus", "task", "num_clips", "words"),
    [
        (MAGNATAGATUNE, None, 5329, None),
        (MAGNATAGATUNE, None, 5328, "The published test split has 5,329 clips, so the published numbers are not to be"),
        (MSD, None, 28_436, "The published test split has 28,435 clips, so the published numbers are not to be"),
        (MAGNATAGATUNE, "instruments", 12, None),
        ("songs", None, 12, None),
    ],
)
def test_what_another_test_split_than_the_published_one_is_said_to_be(corpus, task, num_clips, words):
    said = read_published().remark_on_test(corpus, task, num_clips)
    assert said is words is None or said.startswith(words)
