"""The command: a report of what the probe really writes, in a process of its own, and what is refused."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from clmr_tf.config.command_line import to_json
from clmr_tf.config.train import TrainConfig
from clmr_tf.console import run_command
from clmr_tf.export.writing import write_model_folder
from clmr_tf.models.heads import Head
from clmr_tf.models.sample_cnn import build_encoder
from clmr_tf.probe import __main__ as probe
from clmr_tf.probe.evaluation import FORMAT_VERSION
from clmr_tf.report.__main__ import main
from clmr_tf.report.results import READS_FORMAT_VERSION, read_results
from tests.clmr_tf.report.written_results import result, write
from tests.strict_python import STRICT_PYTHON
from tests.synthetic import write_corpus


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """Two model folders, the second of a model trained with labels, with the results of six evaluations."""
    folder = tmp_path_factory.mktemp("probed")
    corpus = write_corpus(
        folder / "corpora" / "songs",
        num_songs={"train": 9, "valid": 6, "test": 6},
        num_samples=2 * 59049 + 1000,
        tag_names=("brass", "keys", "strings"),
    )
    config = {**to_json(TrainConfig()), "width": 0.0625, "augmentation": "only-gain", "seed": 3}
    run = {"starts": [], "corpus": {"name": "songs", "fingerprint": corpus.manifest.fingerprint}}
    training = {"step": 12, "config": config, "run": run}
    facts = {
        "name": "tiny",
        "licence": "CC0-1.0",
        "tag_names": [],
        "single_label": False,
        "scores": {},
        "training": training,
    }
    encoder = build_encoder(width=0.0625, seed=2)
    write_model_folder(encoder, folder / "models" / "tiny", facts)
    chosen = {"choice": "share of the songs", "share": 0.4, "num_songs": 4, "num_clips": 4, "num_examples": 4}
    chosen |= {"of": {"num_songs": 9, "num_clips": 9, "num_examples": 9}, "tags_without_positives": []}
    config |= {"objective": "supervised", "labels": 0.4, "augmentation": "none"}
    labelled = {"step": 30, "config": config, "run": {**run, "labels": {"chosen": chosen}}}
    head = Head(np.zeros(512), np.ones(512), (np.eye(512, 3), np.zeros(3)))
    facts |= {"name": "labelled", "tag_names": list(corpus.manifest.tag_names), "training": labelled}
    write_model_folder(encoder, folder / "models" / "labelled", facts, head)
    arguments = ["--corpus", str(corpus.folder), "--features-cache", str(folder / "features"), "--preset", "thesis"]
    few = ["--labels", "0.4"], ["--labels-like-paper", "0.5"]
    for options in ([], ["--features", "majority"], ["--features", "mel"], *few):
        probe.main([*arguments, "--model", str(folder / "models" / "tiny"), *options])
    probe.main([*arguments, "--model", str(folder / "models" / "labelled"), "--head", "own"])
    return folder / "models"


def test_reads_what_the_probe_writes(probed):
    assert READS_FORMAT_VERSION == FORMAT_VERSION
    results, skipped = read_results(probed)
    assert skipped == []
    found = {(one.kind, one.head, one.label_choice, one.label_share) for one in results}
    assert found == {
        ("model", "linear", "all", 1.0),
        ("model", "linear", "songs", 0.4),
        ("model", "linear", "like-paper", 0.5),
        ("mel", "linear", "all", 1.0),
        ("majority", "none", "all", 1.0),
        ("model", "own", "songs", 0.4),
    }
    for one in results:
        plain = json.loads((probed / one.file).read_text())
        assert one.scores["test"] == plain["scores"]["test"] and one.single_label
        assert (one.training is not None) == (one.kind == "model")


def test_the_command_in_a_process_of_its_own_loads_no_tensorflow(probed, tmp_path):
    command = [*STRICT_PYTHON, "-c"]
    command += [
        "import sys; from clmr_tf.report.__main__ import main\n"
        "main(sys.argv[1:]); sys.exit('tensorflow' in sys.modules)",
        "--results",
        str(probed),
        "--out",
        str(tmp_path / "new" / "report"),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"Written to {tmp_path / 'new' / 'report' / 'report.md'}\n"
    page = (tmp_path / "new" / "report" / "report.md").read_text(encoding="utf-8")
    plain = json.loads((probed / "tiny" / "evaluation-songs-thesis-linear.json").read_text())
    accuracy = plain["scores"]["test"]["accuracy"]
    low, high = accuracy["interval"]
    cells = f"| CLMR linear | all (9 songs) | thesis | {accuracy['mean']:.3f} | {low:.3f} to {high:.3f} |"
    assert cells in page and "| 12 | on songs, width 0.0625, augmentation only-gain | 3/42 |" in page
    assert "| SampleCNN supervised | 40 % of the songs (4 of 9) | thesis |" in page
    assert "| 30 | on songs, width 0.0625 | 3/42 |" in page
    names = {path.name for path in (tmp_path / "new" / "report").iterdir()}
    assert names == {"report.md", "songs-few-labels.png", "songs-tags.png"}
    assert "| CLMR linear | 40 % of the songs (4 of 9) |" in page and "| CLMR linear | 50 % like the paper" in page


def test_writes_under_reports_and_the_same_bytes_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "savedmodels" / "mine"
    mine.mkdir(parents=True)
    write(mine / "evaluation-a.json", result(0.5))
    write(mine / "evaluation-b.json", result(0.5, kind="model"))
    (mine / "evaluation-c.json").write_text("{")
    main(["--results", "savedmodels/mine"])
    printed = capsys.readouterr()
    assert printed.out == "Written to reports/mine/report.md\n"
    assert "warning: evaluation-c.json is skipped: it is not JSON." in printed.err
    # A model's folder stays a model's folder.
    assert {path.name for path in mine.iterdir()} == {f"evaluation-{name}.json" for name in "abc"}
    written = {path: path.read_bytes() for path in Path("reports/mine").iterdir()}
    assert {path.suffix for path in written} == {".md", ".png"}
    main(["--results", "savedmodels/mine"])
    assert {path: path.read_bytes() for path in Path("reports/mine").iterdir()} == written


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--results", "nowhere"], "There is no folder nowhere; give --results"),
        (["--results", "empty"], "There is no evaluation-*.json in empty; write one with"),
        (["--results", "bad"], "No evaluation-*.json in bad is a result; the first, evaluation-x.json, is not JSON."),
        (["--results", "good", "--out", "good/evaluation-x.json"], "good/evaluation-x.json cannot be a folder"),
        (["--result", "good"], "Unknown option `--result`; did you mean `--results`?"),
        (["good"], "Unexpected argument `good`"),
    ],
)
def test_what_cannot_be_reported_is_one_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "bad", "good"):
        (tmp_path / name).mkdir()
    (tmp_path / "bad" / "evaluation-x.json").write_text("{")
    write(tmp_path / "good" / "evaluation-x.json", result(0.5))
    before = sorted(tmp_path.rglob("*"))
    assert run_command(main, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error
    assert sorted(tmp_path.rglob("*")) == before
