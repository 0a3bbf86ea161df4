"""The command `python -m clmr_tf.probe`: where it writes its result, what it shows and what it refuses."""

import json
from pathlib import Path

import pytest

from clmr_tf.data.corpus import Corpus
from clmr_tf.errors import UsageError
from clmr_tf.export.model_folder import read_manifest
from clmr_tf.probe import __main__ as probe
from tests.clmr_tf.probed import tiny_model, write_corpus_with_tasks, write_tiny_model


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    return write_tiny_model(tiny_model(), tmp_path_factory.mktemp("savedmodels") / "tiny")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return write_corpus_with_tasks(tmp_path_factory.mktemp("corpora") / "songs")


def test_the_command_writes_the_result_and_says_what_it_left_out(model_folder, corpus, tmp_path, capsys):
    arguments = ["--model", str(model_folder), "--corpus", str(corpus.folder), "--features-cache", str(tmp_path)]
    probe.main([*arguments, "--preset", "released", "--task", "several", "--labels", "0.5"])
    printed = capsys.readouterr().out
    path = model_folder / "evaluation-songs-several-released-linear-labels-0.5.json"
    result = json.loads(path.read_text())
    assert f"Written to {path}" in printed and "ROC-AUC over tags" in printed
    assert "Not scored, since no test clip has them: never" in printed
    recorded = read_manifest(model_folder)["scores"]["songs-several-released-linear-labels-0.5"]
    expected = result["scores"]["test"]["average_precision"]["over_tags"]
    assert recorded == {"split": "test", "metric": "macro average precision", **expected}
    # Another draw is another result, also in the model card.
    probe.main([*arguments, "--preset", "released", "--task", "several", "--labels", "0.5", "--seed", "43"])
    again = json.loads((model_folder / f"{path.stem}-seed-43.json").read_text())
    assert again["seed"] == 43 and json.loads(path.read_text()) == result
    assert "songs-several-released-linear-labels-0.5-seed-43" in read_manifest(model_folder)["scores"]
    capsys.readouterr()
    with pytest.raises(
        UsageError, match=f"{tmp_path} cannot be written; choose a file in a folder that exists with --o"
    ):
        probe.main([*arguments, "--preset", "released", "--out", str(tmp_path)])
    assert "Probing" not in capsys.readouterr().err
    with pytest.raises(UsageError, match="--labels is of no effect with --preset quick"):
        probe.main([*arguments, "--labels", "0.5"])
    for seed in ("-1", "2147483648"):
        with pytest.raises(UsageError, match=f"--seed must be between 0 and 2147483645; received {seed}"):
            probe.main(["--seed", seed])
    with pytest.raises(UsageError, match="`--preset` must be one of"):
        probe.main([*arguments, "--preset", "slow"])


def test_the_quick_preset_takes_a_task_as_well(model_folder, corpus, capsys):
    probe.main(["--model", str(model_folder), "--corpus", str(corpus.folder), "--task", "halves"])
    result = json.loads((model_folder / "probe-songs-halves.json").read_text())
    assert result["task"]["name"] == "halves" and result["corpus"]["fingerprint"] == corpus.manifest.fingerprint
    assert result["splits"]["test"]["num_recordings"] == 4 and result["metric"] == "accuracy"
    assert "songs" in capsys.readouterr().out


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_result_elsewhere_leaves_the_model_folder_as_it_is(model_folder, corpus, tmp_path):
    arguments = ["--model", str(model_folder), "--corpus", str(corpus.folder), "--features-cache", str(tmp_path / "f")]
    before = content_of(model_folder)
    probe.main([*arguments, "--task", "halves", "--out", str(tmp_path / "quick.json")])
    probe.main([*arguments, "--task", "several", "--preset", "released", "--out", str(tmp_path / "released.json")])
    assert content_of(model_folder) == before
    assert {path.name for path in tmp_path.glob("*.*")} == {"quick.json", "released.json", "released.npz"}
    # In the folder under another name, or by another way to it, it is the model's.
    (tmp_path / "link").symlink_to(model_folder)
    for out in (model_folder / "evaluation-own-name.json", tmp_path / "link" / "evaluation-linked.json"):
        score = read_manifest(model_folder)
        score["scores"].pop("songs-several-released-linear", None)
        (model_folder / "manifest.json").write_text(json.dumps(score))
        probe.main([*arguments, "--task", "several", "--preset", "released", "--out", str(out)])
        assert "songs-several-released-linear" in read_manifest(model_folder)["scores"]
