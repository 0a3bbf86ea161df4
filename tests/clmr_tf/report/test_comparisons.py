"""Curves over the share of labels, the two rows that are compared by tag, and models that differ in augmentation."""

import pytest

from clmr_tf.report.comparisons import ablations, label_curves, tag_comparison
from clmr_tf.report.results import read_results, rows_of
from tests.clmr_tf.report.written_results import result, write, write_manifest


@pytest.fixture
def rows_in(tmp_path):
    """Rows of results, each (result, settings of its training or None) in a folder of its own."""

    def make(*written):
        for number, (plain, training) in enumerate(written):
            if training is not None:
                write_manifest(tmp_path / str(number), step=plain["features"]["training_step"], **training)
            write(tmp_path / str(number) / "evaluation-x.json", plain)
        found, skipped = read_results(tmp_path)
        assert skipped == []
        return rows_of(found)[0]

    return make


def points_of(curve) -> list[tuple[float, float]]:
    return [(share, pytest.approx(score.mean)) for share, score in curve.points]


def test_the_two_meanings_of_a_share_are_never_one_curve(rows_in):
    shares = [("all", 1.0, 0.5), ("songs", 0.1, 0.4), ("songs", 0.01, 0.3), ("like-paper", 0.01, 0.45)]
    rows = rows_in(
        *((result(value, choice=choice, share=share), None) for choice, share, value in shares),
        *((result(value, kind="majority", choice=choice, share=share), None) for choice, share, value in shares[:1]),
    )
    (songs,) = label_curves(rows, "songs")
    assert songs.name == "mel statistics linear"
    assert points_of(songs) == [(0.01, 0.3), (0.1, 0.4), (1.0, 0.5)]
    # With this preset all labels are one crop of each clip, and those of the paper are chunks.
    (like_paper,) = label_curves(rows, "like-paper")
    assert points_of(like_paper) == [(0.01, 0.45)]


def test_all_labels_end_the_paper_s_curve_where_the_examples_are_the_same(rows_in):
    options = {"preset": "thesis"}
    few = [(result(0.4, choice="like-paper", share=0.1, **options), None), (result(0.5, **options), None)]
    (curve,) = label_curves(rows_in(*few), "like-paper")
    assert points_of(curve) == [(0.1, 0.4), (1.0, 0.5)]
    whole = result(0.45, choice="like-paper", share=1.0, **options)
    (curve,) = label_curves(rows_in(*few, (whole, None)), "like-paper")
    assert points_of(curve) == [(0.1, 0.4), (1.0, 0.45)]


def test_models_with_their_own_head_are_one_curve_whatever_step_they_stopped_at(rows_in):
    written = [
        (
            result(
                0.4 + share / 10,
                kind="model",
                head="own",
                choice=choice,
                share=share,
                step=step,
                model_hash=f"{step:064}",
            ),
            {"objective": "supervised", "labels": share},
        )
        for choice, share, step in (("songs", 0.01, 50), ("songs", 0.1, 300), ("all", 1.0, 2000))
    ]
    (curve,) = label_curves(rows_in(*written), "songs")
    assert curve.name == "SampleCNN supervised"
    assert points_of(curve) == [(0.01, 0.401), (0.1, 0.41), (1.0, 0.5)]


def test_curves_of_one_name_say_what_sets_them_apart(rows_in):
    written = [
        (result(0.4, kind="model", choice="songs", share=share, model_hash=f"{width}"), {"width": width})
        for width in (0.25, 0.5)
        for share in (0.01, 0.1)
    ]
    first, second = label_curves(rows_in(*written), "songs")
    assert first.base_name == second.base_name == "CLMR linear"
    assert [first.name[-10:], second.name[-9:]] == ["width 0.25", "width 0.5"]
    assert len(first.points) == len(second.points) == 2


def test_what_contradicts_a_curve_is_one_of_its_own_and_not_left_out(rows_in):
    shares = (("songs", 0.1), ("all", 1.0))
    written = [(result(score, choice=choice, share=share), None) for score in (0.4, 0.6) for choice, share in shares]
    curves = label_curves(rows_in(*written), "songs")
    assert [points_of(curve) for curve in curves] == [[(0.1, 0.4), (1.0, 0.4)], [(0.1, 0.6), (1.0, 0.6)]]
    assert [curve.name for curve in curves] == ["mel statistics linear (1)", "mel statistics linear (2)"]


def test_a_model_is_compared_with_the_supervised_one(rows_in):
    values = {"guitar": 0.2, "piano": 0.6, "harp": None}
    rows = rows_in(
        (result(values, kind="model"), {}),
        (result(0.8, kind="model", head="mlp"), {}),
        (result(0.5, kind="model", head="own", model_hash="5" * 64), {"objective": "supervised"}),
        (result(0.6, kind="model", head="own", objective="finetune"), {"objective": "finetune", "pretrained": "x"}),
        (result(0.8, kind="mel"), None),
    )
    comparison = tag_comparison(rows)
    assert (comparison.model.name, comparison.other.name) == ("CLMR linear", "SampleCNN supervised")
    assert comparison.is_supervised and comparison.tags == ("piano", "guitar")


def test_without_a_supervised_one_the_best_of_the_other_features_by_the_validation_split(rows_in):
    rows = rows_in(
        (result(0.5, kind="model", valid=0.4), {"width": 0.25}),
        (result(0.3, kind="model", valid=0.6), {"width": 0.5}),
        (result(0.1, kind="mel", valid=0.7), None),
        (result(0.4, kind="untrained", valid=0.5), None),
        # Not with the model's protocol.
        (result(0.4, kind="mel", valid=0.8, preset="thesis"), None),
    )
    comparison = tag_comparison(rows)
    assert comparison.model.first.training.settings["width"] == 0.5 and comparison.other.name == "mel statistics linear"
    assert comparison.other.first.preset == "released" and not comparison.is_supervised


def test_both_have_the_same_labels(rows_in):
    few = {"choice": "songs", "share": 0.1}
    rows = rows_in(
        (result(0.5, kind="mel"), None), (result(0.5, kind="model", **few), {}), (result(0.5, kind="mel", **few), None)
    )
    comparison = tag_comparison(rows)
    assert comparison.model.first.label_share == comparison.other.first.label_share == 0.1


def test_nothing_is_compared_where_there_is_but_one_side(rows_in):
    assert tag_comparison(rows_in((result(0.5), None), (result(0.5, kind="majority"), None))) is None
    assert ablations(rows_in((result(0.5), None))) == []


def test_models_that_differ_in_their_augmentation_stand_in_the_order_of_the_figure(rows_in):
    trainings = [
        {"augmentation": "released"},
        {"augmentation": "only-reverb"},
        {"augmentation": "only-filter", "augmentation_changes": ["filter.probability=0.4"]},
        {"augmentation": "only-filter"},
        {"augmentation": "only-filter", "seed": 43},
        {"augmentation": "none"},
        {"augmentation": "only-polarity"},
        # Another training, and one with labels.
        {"augmentation": "only-gain", "temperature": 0.1},
        {"augmentation": "only-delay", "objective": "supervised"},
    ]
    written = [
        (result(0.05 * number, kind="model", model_hash=f"{number:064}"), training)
        for number, training in enumerate(trainings, start=1)
    ]
    (ablation,) = ablations(rows_in(*written))
    assert ablation.augmentations == (
        "crop alone",
        "polarity",
        "filter",
        "filter, probability=0.4",
        "reverb",
        "released",
    )
    assert [round(row.score("average_precision").mean, 3) for row in ablation.rows] == [
        0.3,
        0.35,
        0.225,
        0.15,
        0.1,
        0.05,
    ]
    assert ablation.name == "CLMR linear, labels all (200 songs), protocol released, 100 steps on songs, width 0.5"


def test_every_head_is_an_ablation_of_its_own(rows_in):
    written = [
        (result(0.3, kind="model", head=head, model_hash=f"{number}"), {"augmentation": augmentation})
        for number, augmentation in enumerate(("none", "only-gain"))
        for head in ("linear", "mlp")
    ]
    linear, mlp = ablations(rows_in(*written))
    assert (linear.name.split(",")[0], mlp.name.split(",")[0]) == ("CLMR linear", "CLMR MLP")
    assert linear.augmentations == mlp.augmentations == ("crop alone", "gain")
