"""Which results are one row, what a row says of its seeds, and where it stands."""

import numpy as np
import pytest

from clmr_tf.probe.protocols import PROTOCOLS
from clmr_tf.report.results import distinct_names, label_words, protocol_words, read_results, rows_of
from tests.clmr_tf.report.written_results import result, write, write_manifest


@pytest.fixture
def rows_in(tmp_path):
    """Writes results, each into a folder of its own unless it has a name with a slash, and puts them into rows."""

    def make(*plain, remarks: bool = False):
        for number, one in enumerate(plain):
            write(tmp_path / f"{number}" / "evaluation-x.json", one)
        found, skipped = read_results(tmp_path)
        assert skipped == []
        rows, said = rows_of(found)
        return (rows, said) if remarks else rows

    return make


def test_seeds_are_one_row_with_mean_spread_and_the_means_of_the_ends(rows_in):
    values = (0.31, 0.35, 0.36)
    results = [result(value, kind="untrained", seed=seed) for seed, value in zip((44, 42, 43), values, strict=True)]
    (row,) = rows_in(*results)
    score = row.score("average_precision")
    assert score.mean == pytest.approx(np.mean(values)) and score.spread == pytest.approx(np.std(values, ddof=1))
    assert score.interval == pytest.approx((np.mean(values) - 0.04, np.mean(values) + 0.06))
    assert row.score("roc_auc").mean == pytest.approx(np.mean(values) + 0.1)
    assert row.per_tag("average_precision")["harp"] == pytest.approx(np.mean(values))
    assert row.seeds() == "42, 43, 44"


def test_one_seed_has_the_numbers_of_the_file_and_no_spread(rows_in):
    plain = result({"guitar": 0.2, "piano": 0.4}, valid={"guitar": 0.6}, accuracy=0.7)
    (row,) = rows_in(plain)
    for split in ("valid", "test"):
        for metric in ("roc_auc", "average_precision"):
            expected = plain["scores"][split][metric]["over_tags"]
            score = row.score(metric, split)
            assert (score.mean, list(score.interval), score.spread) == (expected["mean"], expected["interval"], None)
    assert row.score("accuracy").mean == 0.7 and row.metric == "accuracy"
    assert row.per_tag("roc_auc") == plain["scores"]["test"]["roc_auc"]["per_tag"]


def test_what_cannot_be_scored_with_one_seed_has_no_mean(rows_in):
    (row,) = rows_in(result(0.5, seed=1), result({}, seed=2))
    score = row.score("average_precision")
    assert (score.mean, score.interval, score.spread) == (None, None, None)
    assert row.per_tag("average_precision") == {"guitar": None, "piano": None, "harp": None}


OTHERS = {
    "head": result(0.4, head="mlp"),
    "preset": result(0.4, preset="thesis"),
    "share": result(0.4, choice="songs", share=0.1),
    "way to choose labels": result(0.4, choice="like-paper", share=0.1),
    "features": result(0.4, kind="majority"),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_what_differs_in_more_than_the_seed_is_another_row(rows_in, other):
    assert len(rows_in(result(0.5), {**other, "seed": 43})) == 2


def test_another_number_of_the_protocol_is_another_row_and_said(rows_in):
    other = result(0.4, seed=43)
    other["protocol"]["head"]["learning_rate"] = 0.01
    other["protocol"]["drops_last_chunk"] = False
    rows = rows_in(result(0.5), other)
    words = [protocol_words(row.first) for row in rows]
    assert words == ["released", "released, drops last chunk False, learning rate 0.01"]
    assert distinct_names(rows) == [f"mel statistics linear, {one}" for one in words]
    # Few labels as the paper took them are chosen among all chunks.
    (row,) = [row for row in rows_in(result(0.4, choice="like-paper", share=0.1)) if row.first.label_share < 1]
    assert protocol_words(row.first) == "released, train windows chunks"


def test_the_grid_may_choose_another_head_with_every_seed(rows_in):
    chosen = [result(0.5, preset="grid", seed=1), result(0.6, preset="grid", seed=2)]
    for one, hidden_units, dropout in zip(chosen, (0, 512), (0.25, 0.75), strict=True):
        one["protocol"]["head"] |= {"hidden_units": hidden_units, "dropout": dropout}
    (row,) = rows_in(*chosen)
    assert row.name == "mel statistics grid" and protocol_words(row.first) == "grid"
    assert PROTOCOLS["grid"].head.dropout not in (0.25, 0.75)


def test_models_are_told_apart_by_their_training(rows_in, tmp_path):
    trainings = (
        {"seed": 1},
        {"seed": 2, "workdir": "runs/b", "checkpoint_every": 7},
        {"seed": 1, "temperature": 0.1},
        {"seed": 1, "step": 200},
        {"seed": 1, "trained_on": "other"},
        {"seed": 1, "augmentation": "thesis"},
    )
    plain = []
    for number, training in enumerate(trainings):
        write_manifest(tmp_path / str(number), **training)
        step = training.get("step", 100)
        plain.append(result(0.5 + 0.01 * number, kind="model", model_hash=f"{number:064}", step=step))
    rows = rows_in(*plain)
    assert sorted(len(row.results) for row in rows) == [1, 1, 1, 1, 2]
    (repeated,) = [row for row in rows if len(row.results) == 2]
    assert repeated.seeds() == "1/42, 2/42" and repeated.score("average_precision").mean == pytest.approx(0.505)
    assert all(row.name == "CLMR linear" for row in rows) and len(set(distinct_names(rows))) == 5


def test_models_of_unknown_training_are_told_apart_by_their_weights(rows_in):
    plain = [result(0.5, kind="model", model_hash=letter * 64, seed=seed) for letter, seed in (("a", 1), ("b", 2))]
    assert [len(row.results) for row in rows_in(*plain)] == [1, 1]
    assert distinct_names(rows_in(*plain)) == [f"CLMR linear ({number})" for number in (1, 2)]


def test_models_with_their_own_head_end_where_they_end(rows_in, tmp_path):
    plain = []
    for number, (seed, step) in enumerate(((1, 900), (2, 1100))):
        write_manifest(tmp_path / str(number), step=step, seed=seed, objective="supervised", labels=0.1)
        options = {"head": "own", "choice": "songs", "share": 0.1, "step": step, "model_hash": f"{number:064}"}
        plain.append(result(0.5, kind="model", **options))
    (row,) = rows_in(*plain)
    assert row.name == "SampleCNN supervised" and len(row.results) == 2


def test_the_same_result_twice_counts_once(rows_in):
    (row,), remarks = rows_in(result(0.5), result(0.5), remarks=True)
    assert [one.file for one in row.results] == ["0/evaluation-x.json"]
    assert remarks == ["`1/evaluation-x.json` is the same result as `0/evaluation-x.json` and counts once."]


def test_a_result_that_contradicts_another_is_a_row_of_its_own(rows_in):
    rows, remarks = rows_in(result(0.5), result(0.6), result(0.6), remarks=True)
    assert [row.score("average_precision").mean for row in rows] == pytest.approx([0.5, 0.6])
    assert len(remarks) == 2 and "has the settings and seeds of `0/evaluation-x.json` but other scores" in remarks[0]
    assert remarks[1] == "`2/evaluation-x.json` is the same result as `1/evaluation-x.json` and counts once."


def test_rows_stand_in_the_order_of_the_tables(rows_in, tmp_path):
    plain = [
        result(0.1, kind="musicnn"),
        result(0.1, kind="model", preset="grid"),
        result(0.1, kind="model", head="mlp"),
        result(0.1, kind="model"),
        result(0.1, kind="model", head="own", objective="finetune"),
        result(0.1, kind="model", head="own"),
        result(0.1, kind="untrained", head="mlp"),
        result(0.1, kind="untrained"),
        result(0.1, kind="mel"),
        result(0.1, kind="majority"),
        result(0.1, choice="like-paper", share=0.1),
        result(0.1, choice="songs", share=0.1),
        result(0.1, choice="songs", share=0.5),
        result(0.1, kind="model", model_hash="e" * 64),
    ]
    write_manifest(tmp_path / str(len(plain) - 1), objective="supervised")
    rows = rows_in(*plain)
    assert [row.name for row in rows] == [
        "majority",
        "mel statistics linear",
        "untrained SampleCNN linear",
        "untrained SampleCNN MLP",
        "SampleCNN supervised",
        "CLMR linear",
        "CLMR MLP",
        "CLMR grid",
        "CLMR fine-tuned",
        "features of SampleCNN supervised, linear",
        "musicnn features linear",
        "mel statistics linear",
        "mel statistics linear",
        "mel statistics linear",
    ]
    assert [label_words(row.results) for row in rows[-4:]] == [
        "all (200 songs)",
        "50 % of the songs (100 of 200)",
        "10 % of the songs (20 of 200)",
        "10 % like the paper (400 of 4,000 examples, of 20 of 200 songs)",
    ]


def test_labels_say_what_the_seeds_drew_and_what_was_never_seen(rows_in):
    plain = [result(0.5, seed=seed, choice="like-paper", share=0.1) for seed in (1, 2)]
    plain[1]["labels"] |= {"num_songs": 23, "tags_without_positives": ["harp", "piano"]}
    (row,) = rows_in(*plain)
    assert label_words(row.results) == (
        "10 % like the paper (400 of 4,000 examples, of 20 to 23 of 200 songs), 0 to 2 of 3 tags unseen"
    )
