"""The comparison on real music: that its commands are possible, and that what is done is not done again."""

import json
from pathlib import Path

import pytest

from benchmarks import real_music
from clmr_tf.command_line import parse_command
from clmr_tf.config import TrainConfig
from clmr_tf.console import run_command
from clmr_tf.probe_config import ProbeConfig


@pytest.fixture
def commands(monkeypatch):
    """The commands that are run; in place of hours of training, only their files are made."""
    lines = []

    def run(module: str, *arguments: str) -> None:
        lines.append((module, arguments))
        if module == "clmr_tf.export":
            folder = Path(arguments[arguments.index("--out") + 1])
            folder.mkdir(parents=True)
            (folder / "manifest.json").write_text("{}")
        if module == "clmr_tf.probe":
            Path(arguments[arguments.index("--out") + 1]).write_text("{}")

    monkeypatch.setattr(real_music, "_run", run)
    return lines


def test_every_command_is_possible_and_is_run_once(commands, tmp_path):
    models = real_music.models_of(60, 40, 20)
    real_music.measure("corpora/music", models, tmp_path / "runs", tmp_path / "models")
    trained = {}
    for module, arguments in commands:
        if module == "clmr_tf.train":
            config = parse_command(TrainConfig, arguments, program="train", description="")
            trained[config.workdir.name] = config
        if module == "clmr_tf.probe":
            parse_command(ProbeConfig, arguments, program="probe", description="")
    assert list(trained) == [
        *("clmr", "supervised-1", "supervised-0.1", "supervised-0.01", "none"),
        *(f"only-{name}" for name in ("polarity", "noise", "gain", "filter", "delay", "pitch", "reverb")),
    ]
    assert trained["clmr"].steps == 60 and trained["supervised-0.1"].labels == 0.1
    # What is compared has one size; what is an ablation of one thing differs in nothing else.
    assert trained["clmr"].width == trained["supervised-1"].width == 0.5
    assert (
        len({(trained[name].width, trained[name].batch_size, trained[name].steps) for name in list(trained)[4:]}) == 1
    )
    # Six rows for each share of the labels, six for each of two tasks; own heads; a linear one for each ablation.
    probes = [arguments for module, arguments in commands if module == "clmr_tf.probe"]
    assert len(probes) == 18 + 12 + 3 + 8
    commands.clear()
    real_music.measure("corpora/music", models, tmp_path / "runs", tmp_path / "models")
    assert commands == []


def test_a_corpus_without_pseudo_tags_and_a_command_that_fails_are_one_sentence(tmp_path, monkeypatch, capfd):
    corpus = tmp_path / "corpus"
    arguments = ["--corpus", str(corpus), "--models", str(tmp_path / "models"), "--runs", str(tmp_path / "runs")]
    assert run_command(real_music.main, arguments) == 2
    assert "has no pseudo-tags; run python -m pipelines.pseudo_tags" in capfd.readouterr().err
    (corpus / "tasks").mkdir(parents=True)
    (corpus / "tasks" / "pseudo-tags.json").write_text(json.dumps({}))
    monkeypatch.setattr("sys.executable", "/bin/false")
    assert run_command(real_music.main, arguments) == 1
    assert "`python -m clmr_tf.train` has ended with exit code 1" in capfd.readouterr().err
