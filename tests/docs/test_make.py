"""The results page, made from a run with known numbers."""

import dataclasses
import json
import re
import shlex
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from clmr_tf.config.command_line import parse_command, to_json
from clmr_tf.config.train import TrainConfig
from clmr_tf.console import run_command
from clmr_tf.errors import UsageError
from docs import make

STEPS = range(10, 410, 10)
FINGERPRINT = 64 * "5"


@pytest.fixture(autouse=True)
def pages(tmp_path, monkeypatch) -> Path:
    """A folder that stands for docs/."""
    folder = tmp_path / "docs"
    folder.mkdir()
    monkeypatch.setattr(make, "DOCS", folder)
    monkeypatch.setattr(make, "RUNS", folder / "runs")
    return folder


def write_run(folder: Path, config: TrainConfig) -> Path:
    """Writes a run of 400 steps: the loss falls linearly from 5 to 1.1, the accuracy rises from 0.1 to 0.49."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**to_json(config), "setting_of_another_version": 1}))
    start = {"hardware": {"num_cpus": 6}}
    starts = [{**start, "hardware": {"num_cpus": 2}}, start]
    (folder / "run.json").write_text(json.dumps({"starts": starts, "corpus": {"fingerprint": FINGERPRINT}}))
    rows = [
        {"step": step, "loss": 5 - 0.1 * row, "contrastive_accuracy": 0.1 + 0.01 * row}
        for row, step in enumerate(STEPS)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def record(name: str, folder: Path, config: TrainConfig) -> None:
    run = write_run(folder / f"run of {name}", config.resolved())
    make.main(["--record", name, "--run", str(run)])


def test_the_page_shows_the_course_of_a_run(tmp_path, pages):
    record("first", tmp_path, TrainConfig())
    text = (pages / "results.md").read_text(encoding="utf-8")
    assert "400 steps in 2 start(s) on 6 CPU cores; augmentation preset released." in text
    # Means of the first 4 and the last 4 of 40 rows.
    assert "Loss 4.850 to 1.250, contrastive accuracy 0.115 to 0.475" in text
    assert "](first.png)" in text and (pages / "first.png").is_file()


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"jit": True, "augmentation": "only-gain", "optimizer": "lamb", "precision": "mixed_bfloat16"},
        {"corpus": '/home/ada/My Music/it\'s "loud" & $HOME', "learning_rate": 1e-5, "width": 0.5},
        {"steps": 7, "batch_size": 16, "sample_rate_hz": 8000, "sampling_unit": "clip", "temperature": 0.07},
    ],
)
def test_shown_command_reproduces_the_recorded_settings(tmp_path, pages, changed):
    config = TrainConfig(**changed, workdir=Path("/elsewhere/run"), corpora=Path("/elsewhere/corpora"))
    record("again", tmp_path, config)
    (command,) = re.findall(r"^`(.*)`$", (pages / "results.md").read_text(encoding="utf-8"), re.MULTILINE)
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "clmr_tf.train"]
    assert not any("elsewhere" in word for word in words)
    # One option for every changed setting, and --workdir.
    assert sum(word.startswith("--") for word in words) == len(changed) + 1
    parsed = parse_command(TrainConfig, words[3:], program="train", description="")
    assert parsed.resolved() == dataclasses.replace(
        config.resolved(), workdir=Path("runs/again"), corpora=TrainConfig().corpora
    )


def test_picture_shows_the_curves(tmp_path, pages):
    record("drawn", tmp_path, TrainConfig())
    figure = make.draw(pages / "runs" / "drawn")
    loss, accuracy = figure.axes
    for panel, first, last in ((loss, 5, 1.1), (accuracy, 0.1, 0.49)):
        each, average = (line.get_xydata() for line in panel.lines)
        assert each[[0, -1]] == pytest.approx(np.array([[10, first], [400, last]]))
        # The moving average of a straight line is the line itself.
        assert average[:, 1] == pytest.approx(np.interp(average[:, 0], each[:, 0], each[:, 1]))
    plt.close(figure)


def test_output_is_deterministic_and_records_are_unchanged(tmp_path, pages):
    names = ["zebra", "ant"]
    for name in names:
        run = write_run(tmp_path / name, TrainConfig(seed=len(name)))
        make.record(name, run)
        kept = pages / "runs" / name
        assert {path.name for path in kept.iterdir()} == set(make.RUN_FILES)
        for file in make.RUN_FILES:
            assert (kept / file).read_bytes() == (run / file).read_bytes()
    make.main([])
    before = {path: path.read_bytes() for path in pages.rglob("*") if path.is_file()}
    assert len(before) == 2 * 3 + 2 + 1
    headings = re.findall("^## (.*)$", (pages / "results.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == ["Encoders, trained for the same time", *sorted(names)]
    for made in (pages / "results.md", *pages.glob("*.png")):
        made.unlink()
    make.main([])
    assert {path: path.read_bytes() for path in pages.rglob("*") if path.is_file()} == before


def test_incomplete_run_is_rejected_and_leaves_no_files(tmp_path, pages):
    run = write_run(tmp_path / "run", TrainConfig())
    (run / "metrics.jsonl").unlink()
    (run / "run.json").unlink()
    with pytest.raises(UsageError, match=r"run has no run\.json, metrics\.jsonl; give --run the folder of a run"):
        make.record("a", run)
    assert list(pages.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "There is no recorded run in"),
        (["--record", "a"], "--record needs --run, the folder"),
        (["--record", "a", "--run", "nowhere"], "nowhere has no config.json, run.json, metrics.jsonl"),
    ],
)
def test_wrong_usage_is_one_sentence_with_exit_code_2(pages, capsys, arguments, sentence):
    assert run_command(make.main, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and sentence in error
    assert list(pages.iterdir()) == []


def test_the_page_of_experiments_has_the_recorded_tables(tmp_path, pages):
    record("first", tmp_path, TrainConfig())
    settings = {"steps": 50, "seed": 1}
    scores = {"pseudo-tags": {"mean": 0.613}, "accompaniments": {"mean": 0.7}}
    row = {"variant": "temperature-0.2", "settings": settings, "contrastive_accuracy": 0.25, "scores": scores}
    table = {"steps": 50, "base": {"batch_size": 64}, "paper": {"temperature": 0.5}, "validation": [row], "test": []}
    (tmp_path / "table.json").write_text(json.dumps(table))
    make.main(["--record-experiments", str(tmp_path)])
    text = (pages / "experiments.md").read_text(encoding="utf-8")
    assert "train on 3,200\npairs" in text and "recipe: `--temperature 0.5`" in text
    assert "| temperature-0.2 | 50 | 0.25 | 0.613 | 0.700 |" in text
