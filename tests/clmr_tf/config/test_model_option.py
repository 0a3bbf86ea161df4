"""The --model option, whose default is the included model, or in `clmr_tf.probe` that of a checkout."""

from pathlib import Path

import pytest

from clmr_tf import embed, similar, tag
from clmr_tf.config.command_line import INCLUDED_MODEL, require_model
from clmr_tf.console import run_command


@pytest.mark.parametrize("command", [embed, tag, similar])
def test_missing_model_is_reported_with_advice(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_command(command.main, ["song.mp3", "--model", "runs/mine"]) == 2
    assert " ".join(capsys.readouterr().err.split()) == (
        "error: The model runs/mine does not exist; use --model with a folder that `python -m clmr_tf.export` or "
        "`python -m clmr_tf.train` wrote."
    )
    assert list(tmp_path.iterdir()) == []


def test_existing_models_and_the_included_one_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert require_model(Path("~/mine")) == tmp_path / "mine"
    for settings in (embed.EmbedConfig, tag.TagConfig, similar.SimilarConfig):
        assert require_model(settings().model) == INCLUDED_MODEL
