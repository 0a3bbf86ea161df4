"""The command `python -m clmr_tf.probe`: where it writes its result, what it prints and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest

from clmr_tf.errors import UsageError
from clmr_tf.export.model_folder import read_manifest
from clmr_tf.probe import __main__ as command


@pytest.fixture
def folder(model_folder, tmp_path) -> Path:
    """A copy of the model folder that the command may write to."""
    return Path(shutil.copytree(model_folder, tmp_path / "tiny"))


@pytest.fixture
def run(folder, corpus, cache):
    def run(*options) -> None:
        places = ["--model", folder, "--corpus", corpus.folder, "--features-cache", cache]
        command.main([str(option) for option in (*places, *options)])

    return run


def test_a_result_is_written_printed_and_recorded(run, folder, capsys):
    options = ["--preset", "thesis", "--task", "several", "--labels", "0.5"]
    run(*options)
    printed = capsys.readouterr().out
    path = folder / "evaluation-songs-several-thesis-linear-labels-0.5.json"
    result = json.loads(path.read_text())
    assert f"Written to {path}" in printed.replace("\n", "") and "ROC-AUC over tags" in printed
    assert "Not scored because no test clip has them: never" in printed
    recorded = read_manifest(folder)["scores"]["songs-several-thesis-linear-labels-0.5"]
    expected = result["scores"]["test"]["average_precision"]["over_tags"]
    assert recorded == {"split": "test", "metric": "macro average precision", **expected}
    # Another seed is another result, also in the manifest.
    run(*options, "--seed", "43")
    again = json.loads((folder / f"{path.stem}-seed-43.json").read_text())
    assert again["seed"] == 43 and json.loads(path.read_text()) == result
    assert "songs-several-thesis-linear-labels-0.5-seed-43" in read_manifest(folder)["scores"]


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_result_elsewhere_does_not_change_the_model_folder(run, folder, tmp_path):
    before, elsewhere = content_of(folder), tmp_path / "elsewhere"
    elsewhere.mkdir()
    run("--task", "several", "--preset", "thesis", "--out", elsewhere / "thesis.json")
    assert content_of(folder) == before
    assert {path.name for path in elsewhere.iterdir()} == {"thesis.json", "thesis.npz"}
    # In the folder under another name, or through a link, it is recorded.
    (tmp_path / "link").symlink_to(folder)
    for number, out in enumerate((folder / "evaluation-own-name.json", tmp_path / "link" / "evaluation-linked.json")):
        run("--task", "several", "--preset", "thesis", "--seed", number, "--out", out)
        assert f"songs-several-thesis-linear-seed-{number}" in read_manifest(folder)["scores"]


def test_mistakes_are_reported_before_anything_is_computed(run, tmp_path, capsys):
    with pytest.raises(UsageError, match=f"{tmp_path} cannot be written; give --out a file in an existing folder"):
        run("--preset", "released", "--out", tmp_path)
    with pytest.raises(UsageError, match="`--preset` must be one of"):
        run("--preset", "slow")
    with pytest.raises(UsageError, match="--labels has no effect with --preset retrieval"):
        run("--preset", "retrieval", "--labels", "0.5")
    assert "Probing" not in capsys.readouterr().err
