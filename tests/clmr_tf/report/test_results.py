"""Reading result files, and which results are one row."""

import json

import numpy as np
import pytest

from clmr_tf.errors import UsageError
from clmr_tf.report.results import read_results, rows_of
from tests.clmr_tf.report.written_results import TAGS, result, rows_in, write, write_manifest


def only(folder):
    (found,) = read_results(folder)
    return found


def test_reads_the_entries_of_a_file(tmp_path):
    entries = result({"guitar": 0.5, "piano": 0.25}, task="mood", choice="songs", fraction=0.1, seed=7)
    write(tmp_path / "a" / "b" / "evaluation-x.json", entries)
    for name in ("probe-songs.json", "manifest.json", "evaluation-notes.txt", ".evaluation-x.json.draft"):
        (tmp_path / "a" / name).write_text("{")
    found = only(tmp_path)
    assert (found.file, found.corpus["name"], found.task) == ("a/b/evaluation-x.json", "songs", "mood")
    assert (found.tag_names, found.labels_used, found.seed) == (list(TAGS), ("songs", 0.1), 7)
    assert (found.kind, found.head, found.training, found.entries) == ("mel", "linear", None, entries)


@pytest.mark.parametrize(
    ("options", "head", "name"),
    [
        ({"head": "mlp"}, "mlp", "mel statistics MLP"),
        ({"kind": "majority", "head": "mlp"}, "none", "majority"),
        ({"preset": "grid", "head": "mlp"}, "grid", "mel statistics grid"),
        ({"kind": "model", "head": "own", "objective": "finetune"}, "own", "CLMR fine-tuned"),
        ({"kind": "model", "head": "linear"}, "linear", "CLMR linear"),
        ({"kind": "other"}, "linear", "other linear"),
    ],
)
def test_names_features_and_head(tmp_path, options, head, name):
    write(tmp_path / "evaluation-x.json", result(0.5, **options))
    assert (only(tmp_path).head, only(tmp_path).name) == (head, name)


def test_reads_the_training_from_the_manifest_of_that_model(tmp_path):
    write(tmp_path / "evaluation-x.json", result(0.5, kind="model", step=100))
    assert only(tmp_path).training is None
    changes = ["filter.probability=1"]
    write_manifest(tmp_path, 100, seed=5, augmentation="only-filter", augmentation_changes=changes, of_no_version=3)
    training = only(tmp_path).training
    assert (training.step, training.settings["seed"], training.corpus["name"]) == (100, 5, "songs")
    assert training.augmentation == "only-filter filter.probability=1"
    ((row,), _) = rows_of([only(tmp_path)])
    assert row.training_text == "on songs, width 0.5, augmentation only-filter filter.probability=1"
    assert row.seeds == "5/42"
    # Of another step, of another architecture, of a converted model, of a corpus.
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for change in (
        {"training": {**manifest["training"], "step": 101}},
        {"architecture": {"arguments": {"width": 1.0}}},
        {"training": {"step": 100, "converted_from": {}}},
        {"training": {}},
    ):
        (tmp_path / "manifest.json").write_text(json.dumps(manifest | change))
        assert only(tmp_path).training is None


def test_the_labels_of_a_model_with_its_own_head_are_not_in_the_column_of_its_training(tmp_path):
    write_manifest(tmp_path, objective="supervised", labels=0.1, batch_size=16)
    own = result(0.5, kind="model", head="own", choice="songs", fraction=0.1)
    write(tmp_path / "evaluation-own.json", own)
    write(tmp_path / "evaluation-features.json", result(0.5, kind="model"))
    rows = {row.name: row.training_text for row in rows_of(read_results(tmp_path))[0]}
    assert rows == {
        "features of SampleCNN supervised, linear": "on songs, batch size 16, labels 0.1, width 0.5",
        "SampleCNN supervised": "on songs, batch size 16, width 0.5",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        (json.dumps({**result(0.5), "format_version": 2}), "its format version is 2"),
        (json.dumps({name: entry for name, entry in result(0.5).items() if name != "scores"}), "'scores'"),
    ],
)
def test_a_file_that_is_not_a_result_is_refused_by_name(tmp_path, text, words):
    write(tmp_path / "evaluation-good.json", result(0.5))
    (tmp_path / "evaluation-bad.json").write_text(text)
    with pytest.raises(UsageError, match=rf"evaluation-bad\.json is not a result .*{words}.*; evaluate again"):
        read_results(tmp_path)


def test_seeds_are_one_row_with_mean_standard_deviation_and_mean_ends(tmp_path):
    values = (0.31, 0.35, 0.36)
    results = [result(value, kind="untrained", seed=seed) for seed, value in zip((44, 42, 43), values, strict=True)]
    (row,) = rows_in(tmp_path, *((one, None) for one in results))
    score = row.score("average_precision")
    assert score.mean == pytest.approx(np.mean(values))
    assert score.standard_deviation == pytest.approx(np.std(values, ddof=1))
    assert score.interval == pytest.approx((np.mean(values) - 0.04, np.mean(values) + 0.06))
    assert row.score("roc_auc").mean == pytest.approx(np.mean(values) + 0.1)
    assert row.per_tag("average_precision")["harp"] == pytest.approx(np.mean(values))
    assert row.seeds == "42, 43, 44"


def test_one_seed_has_the_numbers_of_its_file(tmp_path):
    entries = result({"guitar": 0.2, "piano": 0.4}, valid={"guitar": 0.6}, accuracy=0.7)
    (row,) = rows_in(tmp_path, (entries, None))
    for split in ("valid", "test"):
        for metric in ("roc_auc", "average_precision"):
            expected = entries["scores"][split][metric]["over_tags"]
            score = row.score(metric, split)
            found = (score.mean, list(score.interval), score.standard_deviation)
            assert found == (expected["mean"], expected["interval"], None)
    assert row.score("accuracy").mean == 0.7 and row.metric == "accuracy"
    assert row.per_tag("roc_auc") == entries["scores"]["test"]["roc_auc"]["per_tag"]


def test_without_a_score_of_every_seed_there_is_no_mean(tmp_path):
    (row,) = rows_in(tmp_path, (result(0.5, seed=1), None), (result({}, seed=2), None))
    score = row.score("average_precision")
    assert (score.mean, score.interval, score.standard_deviation, str(score)) == (None, None, None, "-")
    assert row.per_tag("average_precision") == dict.fromkeys(TAGS)


@pytest.mark.parametrize(
    "options",
    [
        {"head": "mlp"},
        {"preset": "thesis"},
        {"choice": "songs", "fraction": 0.1},
        {"choice": "like-paper", "fraction": 0.1},
        {"kind": "majority"},
    ],
)
def test_results_that_differ_in_more_than_the_seed_are_two_rows(tmp_path, options):
    assert len(rows_in(tmp_path, (result(0.5), None), (result(0.4, seed=43, **options), None))) == 2


def test_a_changed_protocol_is_a_row_of_its_own_that_shows_the_change(tmp_path):
    other = result(0.4, seed=43)
    other["protocol"]["head"]["learning_rate"] = 0.01
    other["protocol"]["drops_last_chunk"] = False
    rows = rows_in(tmp_path, (result(0.5), None), (other, None))
    assert [row.protocol_text for row in rows] == ["released", "released, drops last chunk False, learning rate 0.01"]


def test_the_grid_may_choose_another_head_with_every_seed(tmp_path):
    chosen = [result(0.5, preset="grid", seed=1), result(0.6, preset="grid", seed=2)]
    for one, hidden_units, dropout in zip(chosen, (0, 512), (0.25, 0.75), strict=True):
        one["protocol"]["head"] |= {"hidden_units": hidden_units, "dropout": dropout}
    (row,) = rows_in(tmp_path, *((one, None) for one in chosen))
    assert (row.name, row.protocol_text) == ("mel statistics grid", "grid")


def test_models_are_grouped_by_their_training(tmp_path):
    trainings = (
        {"seed": 1},
        {"seed": 2, "workdir": "runs/b", "checkpoint_every": 7},
        {"seed": 1, "temperature": 0.1},
        {"seed": 1, "step": 200},
        {"seed": 1, "trained_on": "other"},
        {"seed": 1, "augmentation": "thesis"},
    )
    rows = rows_in(
        tmp_path,
        *(
            (result(0.5, kind="model", model_hash=f"{number:064}", step=training.get("step", 100)), training)
            for number, training in enumerate(trainings)
        ),
    )
    assert sorted(row.seeds for row in rows) == ["1/42", "1/42", "1/42", "1/42", "1/42, 2/42"]


def test_models_of_unknown_training_are_grouped_by_their_weights(tmp_path):
    hashes = ("a", "b", "a")
    models = [(result(0.5, kind="model", model_hash=one * 64, seed=seed), None) for seed, one in enumerate(hashes)]
    assert sorted(row.seeds for row in rows_in(tmp_path, *models)) == ["0, 2", "1"]


def test_models_with_their_own_head_are_one_row_whatever_their_last_steps(tmp_path):
    options = {"kind": "model", "head": "own", "choice": "songs", "fraction": 0.1}
    (row,) = rows_in(
        tmp_path,
        *(
            (result(0.5, step=step, model_hash=f"{step:064}", **options), {"seed": seed, "objective": "supervised"})
            for seed, step in ((1, 900), (2, 1100))
        ),
    )
    assert (row.name, len(row.results), row.steps_text) == ("SampleCNN supervised", 2, "900 to 1,100")


def test_the_same_result_counts_once_and_other_scores_are_averaged(tmp_path):
    for number, value in enumerate((0.5, 0.5, 0.6)):
        write(tmp_path / f"{number}" / "evaluation-x.json", result(value))
    (row,), remarks = rows_of(read_results(tmp_path))
    assert row.score("average_precision").mean == pytest.approx(0.55) and row.seeds == "42, 42"
    assert remarks == ["`1/evaluation-x.json` is the same result as `0/evaluation-x.json` and counts once."]


def test_rows_have_the_order_of_the_tables(tmp_path):
    ordered = [
        {"kind": "majority"},
        {"kind": "mel"},
        {"kind": "untrained"},
        {"kind": "untrained", "head": "mlp"},
        {"kind": "model", "head": "own"},
        {"kind": "model"},
        {"kind": "model", "head": "mlp"},
        {"kind": "model", "preset": "grid"},
        {"kind": "model", "head": "own", "objective": "finetune"},
        {"kind": "musicnn"},
        {"choice": "songs", "fraction": 0.5},
        {"choice": "songs", "fraction": 0.1},
        {"choice": "like-paper", "fraction": 0.1},
    ]
    # The score is the place.
    results = [(result(place / 100, **options), None) for place, options in enumerate(ordered)]
    places = [row.score("average_precision").mean for row in rows_in(tmp_path, *reversed(results))]
    assert places == pytest.approx(np.arange(len(ordered)) / 100)


def test_names_say_which_encoder_it_was(tmp_path):
    untrained = result(0.4, kind="untrained")
    untrained["features"]["architecture"] = {"encoder": "mel_cnn", "width": 0.5, "sample_rate_hz": 22050}
    names = [row.name for row in rows_in(tmp_path, (untrained, None), (result(0.3, kind="untrained"), None))]
    assert sorted(names) == ["untrained SampleCNN linear", "untrained mel_cnn linear"]


def test_labels_have_ranges_over_the_seeds(tmp_path):
    results = [result(0.5, seed=seed, choice="like-paper", fraction=0.1) for seed in (1, 2)]
    results[1]["labels"] |= {"num_songs": 23, "tags_without_positives": ["harp", "piano"]}
    (row,) = rows_in(tmp_path, *((one, None) for one in results))
    assert row.labels_text == (
        "10 % like the paper (400 of 4,000 examples, of 20 to 23 of 200 songs), 0 to 2 of 3 tags unseen"
    )
