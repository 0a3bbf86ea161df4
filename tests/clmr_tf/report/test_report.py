"""The command, on what the probe really writes."""

import json
from pathlib import Path

import numpy as np
import pytest

from clmr_tf.config.command_line import to_json
from clmr_tf.config.train import TrainConfig
from clmr_tf.console import run_command
from clmr_tf.export.writing import write_model_folder
from clmr_tf.models.encoders import build_encoder
from clmr_tf.models.heads import Head
from clmr_tf.probe import __main__ as probe
from clmr_tf.probe.evaluation import FORMAT_VERSION
from clmr_tf.report.__main__ import main
from clmr_tf.report.results import READS_FORMAT_VERSION, read_results
from tests.clmr_tf.probed import only_default_signature
from tests.clmr_tf.report.written_results import result, write
from tests.synthetic import synthetic_corpus


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """Two model folders, the second of a model trained with labels, with the results of four evaluations."""
    folder = tmp_path_factory.mktemp("probed")
    corpus = synthetic_corpus(
        folder / "corpora" / "songs",
        num_songs={"train": 9, "valid": 6, "test": 6},
        num_samples=2 * 59049 + 1000,
        tag_names=("brass", "keys", "strings"),
    )
    config = {**to_json(TrainConfig()), "width": 0.0625, "augmentation": "only-gain", "seed": 3}
    run = {"starts": [], "corpus": {"name": "songs", "fingerprint": corpus.manifest.fingerprint}}
    training = {"step": 12, "config": config, "run": run}
    metadata = {
        "name": "tiny",
        "licence": "CC0-1.0",
        "tag_names": [],
        "single_label": False,
        "scores": {},
        "training": training,
    }
    encoder = build_encoder(width=0.0625, seed=2)
    with only_default_signature():
        write_model_folder(encoder, folder / "models" / "tiny", metadata)
    chosen = {"choice": "fraction of the songs", "fraction": 0.4, "num_songs": 4, "num_clips": 4, "num_examples": 4}
    chosen |= {"of": {"num_songs": 9, "num_clips": 9, "num_examples": 9}, "tags_without_positives": []}
    config |= {"objective": "supervised", "labels": 0.4, "augmentation": "none"}
    labelled = {"step": 30, "config": config, "run": {**run, "labels": {"selection": chosen}}}
    head = Head(np.zeros(512), np.ones(512), (np.eye(512, 3), np.zeros(3)))
    metadata |= {"name": "labelled", "tag_names": list(corpus.manifest.tag_names), "training": labelled}
    with only_default_signature():
        write_model_folder(encoder, folder / "models" / "labelled", metadata, head)
    arguments = ["--corpus", str(corpus.folder), "--features-cache", str(folder / "features"), "--preset", "thesis"]
    for options in ([], ["--features", "majority"], ["--labels-like-paper", "0.5"]):
        probe.main([*arguments, "--model", str(folder / "models" / "tiny"), *options])
    probe.main([*arguments, "--model", str(folder / "models" / "labelled"), "--head", "own"])
    return folder / "models"


def test_the_format_is_that_of_the_probe():
    assert READS_FORMAT_VERSION == FORMAT_VERSION


@pytest.mark.soak
def test_reports_what_the_probe_writes(probed, tmp_path):
    found = {(one.name, *one.labels_used, one.training is not None) for one in read_results(probed)}
    assert found == {
        ("CLMR linear", "all", 1.0, True),
        ("CLMR linear", "like-paper", 0.5, True),
        ("majority", "all", 1.0, False),
        ("SampleCNN supervised", "songs", 0.4, True),
    }
    main(["--results", str(probed), "--out", str(tmp_path / "new" / "report")])
    page = (tmp_path / "new" / "report" / "report.md").read_text(encoding="utf-8")
    accuracy = json.loads((probed / "tiny" / "evaluation-songs-thesis-linear.json").read_text())["scores"]["test"][
        "accuracy"
    ]
    low, high = accuracy["interval"]
    assert f"| CLMR linear | all (9 songs) | thesis | {accuracy['mean']:.3f} | {low:.3f} to {high:.3f} |" in page
    assert "| 12 | on songs, width 0.0625, augmentation only-gain | 3/42 |" in page
    assert "| SampleCNN supervised | 40 % of the songs (4 of 9) | thesis |" in page
    assert "| 30 | on songs, width 0.0625 | 3/42 |" in page
    names = {path.name for path in (tmp_path / "new" / "report").iterdir()}
    assert names == {"report.md", "songs-few-labels.png", "songs-tags.png"}


def test_writes_under_reports_and_leaves_the_model_folder_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "savedmodels" / "mine"
    write(mine / "evaluation-a.json", result(0.5))
    main(["--results", "savedmodels/mine"])
    assert capsys.readouterr().out == "Written to reports/mine/report.md\n"
    assert [path.name for path in mine.iterdir()] == ["evaluation-a.json"]
    assert [path.name for path in Path("reports/mine").iterdir()] == ["report.md"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--results", "nowhere"], "There is no evaluation-*.json in nowhere; write one with"),
        (["--results", "bad"], "bad/evaluation-x.json is not a result that this version reads"),
        (["--results", "good", "--out", "good/evaluation-x.json"], "good/evaluation-x.json cannot be a folder"),
        (["good"], "Unexpected argument `good`"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "good" / "evaluation-x.json", result(0.5))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "evaluation-x.json").write_text("{")
    before = sorted(tmp_path.rglob("*"))
    assert run_command(main, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error
    assert sorted(tmp_path.rglob("*")) == before
