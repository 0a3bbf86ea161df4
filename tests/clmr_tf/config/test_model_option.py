"""The --model option of commands whose default is the included model."""

from pathlib import Path

import pytest

from clmr_tf import embed, similar, tag
from clmr_tf.config.command_line import INCLUDED_MODEL, require_model
from clmr_tf.console import run_command
from clmr_tf.errors import UsageError
from clmr_tf.probe import __main__ as probe


@pytest.mark.parametrize(
    ("command", "arguments"),
    [(embed, ["song.mp3"]), (tag, ["song.mp3"]), (similar, ["song.mp3"]), (probe, [])],
)
def test_missing_model_is_reported_with_advice(command, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_command(command.main, arguments) == 2
    assert " ".join(capsys.readouterr().err.split()) == (
        "error: --model is needed, since the included model savedmodels/music-small does not exist; use --model with a "
        "folder that `python -m clmr_tf.export` or `python -m clmr_tf.train` wrote."
    )
    assert run_command(command.main, [*arguments, "--model", "runs/mine"]) == 2
    assert "error: The model runs/mine does not exist; use --model" in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_require_model_returns_existing_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    INCLUDED_MODEL.mkdir(parents=True)
    assert require_model(INCLUDED_MODEL) == INCLUDED_MODEL
    assert require_model(Path("~/savedmodels/music-small")) == tmp_path / INCLUDED_MODEL
    with pytest.raises(UsageError, match=r"^The model other does not exist"):
        require_model(Path("other"))
