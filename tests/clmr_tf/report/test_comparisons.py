"""Curves over the fraction of labels, the two rows compared by tag, and ablations of augmentations."""

import pytest

from clmr_tf.report.comparisons import ablations, augmentation_text, common_tags, label_curves, tag_comparison
from tests.clmr_tf.report.written_results import result, rows_in


def points_of(curve) -> dict[float, float]:
    return {fraction: pytest.approx(score.mean) for fraction, score in curve.items()}


def test_the_two_meanings_of_a_fraction_are_never_one_curve(tmp_path):
    fractions = [("all", 1.0, 0.5), ("songs", 0.1, 0.4), ("songs", 0.01, 0.3), ("like-paper", 0.01, 0.45)]
    results = [result(value, choice=choice, fraction=fraction) for choice, fraction, value in fractions]
    rows = rows_in(tmp_path, *((one, None) for one in (*results, result(0.5, kind="majority"))))
    assert {name: points_of(curve) for name, curve in label_curves(rows, "songs").items()} == {
        "mel statistics linear": {0.01: 0.3, 0.1: 0.4, 1.0: 0.5}
    }
    # With this preset, all labels mean one crop of each clip; those of the paper are chunks.
    (like_paper,) = label_curves(rows, "like-paper").values()
    assert points_of(like_paper) == {0.01: 0.45}


def test_all_labels_end_the_paper_s_curve_if_the_examples_are_the_same(tmp_path):
    few = (result(0.4, choice="like-paper", fraction=0.1, preset="thesis"), None), (result(0.5, preset="thesis"), None)
    (curve,) = label_curves(rows_in(tmp_path, *few), "like-paper").values()
    assert points_of(curve) == {0.1: 0.4, 1.0: 0.5}
    whole = result(0.45, choice="like-paper", fraction=1.0, preset="thesis")
    (curve,) = label_curves(rows_in(tmp_path, *few, (whole, None)), "like-paper").values()
    assert points_of(curve) == {0.1: 0.4, 1.0: 0.45}


def test_models_with_their_own_head_are_one_curve_whatever_their_last_steps(tmp_path):
    options = {"kind": "model", "head": "own"}
    fractions = (("songs", 0.01, 50), ("songs", 0.1, 300), ("all", 1.0, 2000))
    written = [
        (
            result(fraction, choice=choice, fraction=fraction, step=step, model_hash=f"{step}", **options),
            {"objective": "supervised", "labels": fraction},
        )
        for choice, fraction, step in fractions
    ]
    curves = label_curves(rows_in(tmp_path, *written), "songs")
    assert {name: points_of(curve) for name, curve in curves.items()} == {
        "SampleCNN supervised": {0.01: 0.01, 0.1: 0.1, 1.0: 1.0}
    }


def test_names_of_curves_contain_what_differs(tmp_path):
    written = [
        (
            result(0.4, kind="model", choice="songs", fraction=fraction, preset=preset, model_hash=f"{width}"),
            {"width": width},
        )
        for width, preset in ((0.25, "released"), (0.5, "released"), (0.5, "thesis"))
        for fraction in (0.01, 0.1)
    ]
    curves = label_curves(rows_in(tmp_path, *written), "songs")
    first, second, third = sorted(curves)
    assert first.startswith("CLMR linear, released, ") and first.endswith("width 0.25")
    assert second.startswith("CLMR linear, released, ") and second.endswith("width 0.5")
    assert third == "CLMR linear, thesis" and all(len(curve) == 2 for curve in curves.values())


def test_a_model_is_compared_with_the_supervised_one(tmp_path):
    values = {"guitar": 0.2, "piano": 0.6, "harp": None}
    rows = rows_in(
        tmp_path,
        (result(values, kind="model"), {}),
        (result(0.8, kind="model", head="mlp"), {}),
        (result(0.5, kind="model", head="own", model_hash="5" * 64), {"objective": "supervised"}),
        (result(0.6, kind="model", head="own", objective="finetune"), {"objective": "finetune", "pretrained": "x"}),
        (result(0.8, kind="mel"), None),
    )
    model, other = tag_comparison(rows)
    assert (model.name, other.name) == ("CLMR linear", "SampleCNN supervised")
    assert common_tags(model, other) == ["piano", "guitar"]


def test_without_a_supervised_model_the_validation_split_chooses_the_baseline(tmp_path):
    rows = rows_in(
        tmp_path,
        (result(0.5, kind="model", valid=0.4), {"width": 0.25}),
        (result(0.3, kind="model", valid=0.6), {"width": 0.5}),
        (result(0.1, kind="mel", valid=0.7), None),
        (result(0.4, kind="untrained", valid=0.5), None),
        # With another protocol than the model.
        (result(0.4, kind="mel", valid=0.8, preset="thesis"), None),
    )
    model, other = tag_comparison(rows)
    assert model.first.training.settings["width"] == 0.5
    assert (other.name, other.first.preset) == ("mel statistics linear", "released")


def test_both_rows_have_the_same_labels(tmp_path):
    few = {"choice": "songs", "fraction": 0.1}
    results = (result(0.5), None), (result(0.5, kind="model", **few), {}), (result(0.5, **few), None)
    model, other = tag_comparison(rows_in(tmp_path, *results))
    assert model.first.labels_used == other.first.labels_used == ("songs", 0.1)


def test_baselines_alone_are_not_compared(tmp_path):
    rows = rows_in(tmp_path, (result(0.5), None), (result(0.5, kind="majority"), None))
    assert tag_comparison(rows) is None and ablations(rows) == [] and label_curves(rows, "songs") == {}


def test_an_ablation_has_the_order_of_the_figure(tmp_path):
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
        (result(0.05 * number, kind="model", model_hash=f"{number}"), training)
        for number, training in enumerate(trainings, 1)
    ]
    (ablation,) = ablations(rows_in(tmp_path, *written))
    assert {augmentation_text(row): row.score("average_precision").mean for row in ablation} == {
        "crop alone": pytest.approx(0.3),
        "polarity": pytest.approx(0.35),
        "filter": pytest.approx(0.225),
        "filter, probability=0.4": pytest.approx(0.15),
        "reverb": pytest.approx(0.1),
        "released": pytest.approx(0.05),
    }
    assert [augmentation_text(row) for row in ablation][:3] == ["crop alone", "polarity", "filter"]


def test_every_head_has_an_ablation_of_its_own(tmp_path):
    written = [
        (result(0.3, kind="model", head=head, model_hash=f"{number}"), {"augmentation": augmentation})
        for number, augmentation in enumerate(("none", "only-gain"))
        for head in ("linear", "mlp")
    ]
    names = [[row.name for row in rows] for rows in ablations(rows_in(tmp_path, *written))]
    assert names == [["CLMR linear"] * 2, ["CLMR MLP"] * 2]
