"""Reading result files: what is taken over, and what is no result."""

import json

import pytest

from clmr_tf.errors import UsageError
from clmr_tf.report.results import SkippedFile, read_results
from tests.clmr_tf.report.written_results import TAGS, result, write, write_manifest


def only(folder):
    (found,), skipped = read_results(folder)
    assert skipped == []
    return found


def test_takes_over_what_the_file_says(tmp_path):
    plain = result({"guitar": 0.5, "piano": 0.25}, task="mood", choice="songs", share=0.1, seed=7)
    write(tmp_path / "a" / "b" / "evaluation-x.json", plain)
    found = only(tmp_path)
    assert (found.file, found.corpus, found.task, found.tag_names) == ("a/b/evaluation-x.json", "songs", "mood", TAGS)
    assert (found.corpus_fingerprint, found.task_fingerprint) == ("c" * 64, "7" * 64)
    assert (found.label_choice, found.label_share, found.label_counts["num_songs"]) == ("songs", 0.1, 20)
    assert (found.kind, found.head, found.objective, found.seed, found.training) == ("mel", "linear", None, 7, None)
    assert found.scores["test"]["average_precision"]["over_tags"] == {"mean": 0.375, "interval": [0.335, 0.435]}
    assert found.scores["test"]["tags_without_positives"] == ["harp"]


@pytest.mark.parametrize(
    ("options", "head"),
    [
        ({"head": "linear"}, "linear"),
        ({"head": "mlp"}, "mlp"),
        ({"kind": "majority", "head": "mlp"}, "none"),
        ({"preset": "grid", "head": "mlp"}, "grid"),
        ({"kind": "model", "head": "own", "objective": "finetune"}, "own"),
    ],
)
def test_knows_the_head(tmp_path, options, head):
    write(tmp_path / "evaluation-x.json", result(0.5, **options))
    assert only(tmp_path).head == head
    assert only(tmp_path).objective == options.get("objective")


def test_reads_the_training_from_the_manifest_of_that_model(tmp_path):
    path = write(tmp_path / "evaluation-x.json", result(0.5, kind="model", step=100))
    assert only(tmp_path).training is None
    write_manifest(
        tmp_path, step=100, seed=5, augmentation="only-filter", augmentation_changes=["filter.probability=1"]
    )
    training = only(tmp_path).training
    assert (training.step, training.seed, training.objective, training.corpus) == (100, 5, "contrastive", "songs")
    assert training.augmentation_words == "only-filter filter.probability=1"
    assert training.changed_settings() == ["width 0.5", "augmentation only-filter filter.probability=1"]
    assert "steps" not in training.settings and "workdir" not in training.settings
    # Of another step, of another architecture, of a corpus, of nothing.
    write_manifest(tmp_path, step=101)
    assert only(tmp_path).training is None
    write_manifest(tmp_path, step=100)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["architecture"]["arguments"] = {"width": 1.0}
    for text in (json.dumps(manifest), '{"format_version": 1, "name": "songs"}', "[]", "{", ""):
        (tmp_path / "manifest.json").write_text(text)
        assert only(tmp_path).training is None
    assert path.exists()


def test_a_training_with_labels_is_compared_with_the_defaults_of_its_objective(tmp_path):
    write_manifest(tmp_path, objective="supervised", labels=0.1, batch_size=16)
    plain = result(0.5, kind="model", head="own", choice="songs", share=0.1)
    write(tmp_path / "evaluation-own.json", plain)
    write(tmp_path / "evaluation-features.json", result(0.5, kind="model"))
    (features, own), _ = read_results(tmp_path)
    # The row says how many labels a head of its own had; of features it is the training that had few.
    assert own.training.changed_settings() == ["batch size 16", "width 0.5"]
    assert features.training.changed_settings() == ["batch size 16", "labels 0.1", "width 0.5"]


def changed(path: str, value):
    """A result with another value at `path`, or without it."""
    plain = result({"guitar": 0.5, "piano": 0.25, "harp": 0.1}, kind="model", accuracy=0.5)
    *names, last = path.split(".")
    part = plain
    for name in names:
        part = part[name]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return plain


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("format_version", 2, "is of format version 2; this program reads 1"),
        ("format_version", None, "is JSON, but no result of an evaluation"),
        ("scores", None, "is JSON, but no result of an evaluation"),
        ("corpus.name", None, "is no whole result: `corpus.name` is missing or of a wrong type"),
        ("corpus.tag_names", [["guitar"]], "`corpus.tag_names` is not a list of names"),
        ("seed", True, "`seed` is missing"),
        ("features.kind", 3, "`features.kind` is missing"),
        ("features.model_hash", None, "`features.model_hash` is missing"),
        ("features.architecture", "wide", "`features.architecture` is missing"),
        ("protocol.head", None, "`protocol.head.hidden_units` is missing"),
        ("protocol.interval.percentiles", [5, 95], "has intervals that are not between the percentiles [2.5, 97.5]"),
        ("labels.choice", "the first ten", "has an unknown choice of labels, 'the first ten'"),
        ("labels.share", 0, "has labels of the share 0, which is none"),
        ("labels.of.num_songs", None, "`labels.of.num_songs` is missing"),
        ("scores.valid", None, "`scores.valid.num_songs` is missing"),
        ("scores.test.accuracy", None, "`scores.test.accuracy` is missing"),
        ("scores.test.roc_auc.over_tags.mean", 35.6, "`scores.test.roc_auc.over_tags` is no score with an interval"),
        ("scores.test.roc_auc.over_tags.mean", float("nan"), "`scores.test.roc_auc.over_tags` is no score"),
        ("scores.test.average_precision.over_tags.interval", [0.1], "`scores.test.average_precision.over_tags` is no"),
        ("scores.test.roc_auc.per_tag.harp", None, "`scores.test.roc_auc.per_tag` is not a score for each tag"),
        ("scores.test.roc_auc.per_tag.harp", 10**400, "`scores.test.roc_auc.per_tag` is not a score for each tag"),
    ],
)
def test_a_file_that_is_no_result_is_named_with_the_reason(tmp_path, path, value, words):
    write(tmp_path / "evaluation-good.json", result(0.5))
    write(tmp_path / "sub" / "evaluation-other.json", changed(path, value))
    (good,), (skipped,) = read_results(tmp_path)
    assert good.file == "evaluation-good.json"
    assert skipped.file == "sub/evaluation-other.json" and words in skipped.reason


def test_files_that_cannot_be_read_are_named(tmp_path):
    write(tmp_path / "evaluation-good.json", result(0.5))
    (tmp_path / "evaluation-broken.json").write_text("{")
    (tmp_path / "evaluation-deep.json").write_text(100_000 * "[")
    (tmp_path / "evaluation-folder.json").mkdir()
    (tmp_path / "evaluation-latin.json").write_bytes(b'{"name": "caf\xe9"}')
    (tmp_path / "evaluation-list.json").write_text("[]")
    _, skipped = read_results(tmp_path)
    assert skipped == [
        SkippedFile("evaluation-broken.json", "is not JSON"),
        SkippedFile("evaluation-deep.json", "is not JSON"),
        SkippedFile("evaluation-folder.json", "cannot be read: Is a directory"),
        SkippedFile("evaluation-latin.json", "is not JSON"),
        SkippedFile("evaluation-list.json", "is JSON, but no result of an evaluation"),
    ]


def test_other_files_are_none_of_ours(tmp_path):
    write(tmp_path / "evaluation-good.json", result(0.5))
    for name in ("probe-songs.json", "manifest.json", "evaluation-notes.txt", ".evaluation-x.json.draft"):
        (tmp_path / name).write_text("{")
    assert only(tmp_path).file == "evaluation-good.json"


def test_a_folder_without_results_is_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"There is no evaluation-\*\.json in .*; write one with"):
        read_results(tmp_path)
    with pytest.raises(UsageError, match="There is no folder"):
        read_results(tmp_path / "nowhere")
    (tmp_path / "evaluation-x.json").write_text("{")
    with pytest.raises(UsageError, match=r"the first, evaluation-x\.json, is not JSON\. Evaluate again"):
        read_results(tmp_path)
