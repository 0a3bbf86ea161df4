"""The comparison on real music: its commands are valid, and finished work is not repeated."""

import json
from pathlib import Path

import pytest

from benchmarks import real_music
from clmr_tf.config.command_line import parse_command, to_json
from clmr_tf.config.train import TrainConfig
from clmr_tf.console import run_command
from clmr_tf.data.corpus import Corpus, CorpusTask, Label, write_task
from clmr_tf.errors import UsageError
from clmr_tf.export.__main__ import ExportConfig
from clmr_tf.probe.settings import ProbeConfig
from tests.synthetic import write_corpus


def write_tagged_corpus(folder: Path, num_songs: int = 2, tag: str = "guitar") -> None:
    if not folder.exists():
        write_corpus(folder, num_songs={"train": num_songs})
    items = {f"item-{number}": Label("train", (tag,)) for number in range(num_songs)}
    write_task(CorpusTask("pseudo-tags", "Made for a test.", (tag,), False, items), folder)


@pytest.fixture
def commands(monkeypatch):
    """Records the commands and writes their result files instead of training for hours."""
    lines, trained = [], {}

    def run(module: str, *arguments: str) -> None:
        lines.append((module, arguments))
        if module == "clmr_tf.train":
            config = parse_command(TrainConfig, arguments, program="train", description="")
            trained[str(config.workdir)] = config
        if module == "clmr_tf.export":
            config = parse_command(ExportConfig, arguments, program="export", description="")
            of = trained[str(config.model)]
            # A run with labels records the fingerprint of its corpus for its task.
            corpus = Corpus.open(of.corpus) if of.task is None else Corpus.open(of.corpus).for_task(of.task)
            run_metadata = {"corpus": {"fingerprint": corpus.manifest.fingerprint}}
            training = {"step": of.steps, "config": to_json(of), "run": run_metadata}
            manifest = {"format_version": 1, "architecture": {"arguments": {}}, "scores": {}, "training": training}
            manifest |= {"tag_names": [], "single_label": False}
            config.out.mkdir(parents=True)
            (config.out / "manifest.json").write_text(json.dumps(manifest))
        if module == "clmr_tf.probe":
            Path(arguments[arguments.index("--out") + 1]).write_text("{}")

    monkeypatch.setattr(real_music, "_run", run)
    return lines


def test_every_command_is_valid_and_runs_once(commands, tmp_path):
    corpus, models = str(tmp_path / "corpus"), real_music.models_of(60, 40, 20)
    write_tagged_corpus(tmp_path / "corpus")
    real_music.measure(corpus, models, tmp_path / "runs", tmp_path / "models")
    trained = {}
    for module, arguments in commands:
        if module == "clmr_tf.train":
            config = parse_command(TrainConfig, arguments, program="train", description="")
            trained[config.workdir.name] = config
        if module == "clmr_tf.probe":
            parse_command(ProbeConfig, arguments, program="probe", description="")
    few = [f"supervised-{fraction}-{seed}" for fraction in (0.1, 0.01) for seed in (42, 43, 44)]
    assert list(trained) == [
        *("clmr", "supervised-1-42", *few, "none"),
        *(f"only-{name}" for name in ("polarity", "noise", "gain", "filter", "delay", "pitch", "reverb")),
    ]
    assert trained["clmr"].steps == 60
    assert (trained["supervised-0.1-43"].labels, trained["supervised-0.1-43"].seed) == (0.1, 43)
    # Compared models have the same size, and ablation runs differ only in their augmentation.
    assert trained["clmr"].width == trained["supervised-1-42"].width == 0.5
    assert (
        len({(trained[name].width, trained[name].batch_size, trained[name].steps) for name in list(trained)[8:]}) == 1
    )
    # Seven label subsets with eight heads; six rows for each of two tasks; own heads; ablations.
    probes = [arguments for module, arguments in commands if module == "clmr_tf.probe"]
    assert len(probes) == 7 * 8 + 12 + 7 + 8
    assert len({arguments[arguments.index("--out") + 1] for arguments in probes}) == len(probes)
    commands.clear()
    real_music.measure(corpus, models, tmp_path / "runs", tmp_path / "models")
    assert commands == []


def test_existing_model_with_other_settings_or_music_is_rejected(commands, tmp_path):
    corpus, other = tmp_path / "corpus", tmp_path / "other"
    write_tagged_corpus(corpus)
    write_tagged_corpus(other, num_songs=3)
    folders = tmp_path / "runs", tmp_path / "models"
    real_music.measure(str(corpus), real_music.models_of(60, 40, 0), *folders)
    with pytest.raises(UsageError, match="clmr was trained with steps 60 and not 61"):
        real_music.measure(str(corpus), real_music.models_of(61, 40, 0), *folders)
    with pytest.raises(UsageError, match="clmr was trained with corpus"):
        real_music.measure(str(other), real_music.models_of(60, 40, 0), *folders)
    # Only the baselines depend on the tags.
    write_tagged_corpus(corpus, tag="flute")
    with pytest.raises(UsageError, match="supervised-1-42 was trained with corpus"):
        real_music.measure(str(corpus), real_music.models_of(60, 40, 0), *folders)


def test_missing_pseudo_tags_and_failing_commands_are_one_sentence(tmp_path, monkeypatch, capfd):
    corpus = tmp_path / "corpus"
    arguments = ["--corpus", str(corpus), "--models", str(tmp_path / "models"), "--runs", str(tmp_path / "runs")]
    assert run_command(real_music.main, arguments) == 2
    assert "has no pseudo-tags; run python -m pipelines.pseudo_tags" in capfd.readouterr().err
    (corpus / "tasks").mkdir(parents=True)
    (corpus / "tasks" / "pseudo-tags.json").write_text(json.dumps({}))
    monkeypatch.setattr("sys.executable", "/bin/false")
    assert run_command(real_music.main, arguments) == 1
    assert "`python -m clmr_tf.train` ended with exit code 1" in capfd.readouterr().err
