"""The tables of the comparison of encoders, from scores that are known."""

import dataclasses
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from benchmarks.encoder_table import (
    PLAN_FILE,
    SCORES,
    TRAININGS,
    Evaluation,
    Network,
    markdown,
    table_of,
    write_tables,
)
from clmr_tf.console import run_command
from clmr_tf.errors import ClmrError
from docs import encoders, make

NUM_RESAMPLINGS = 41
SPREAD = np.linspace(-0.2, 0.2, NUM_RESAMPLINGS)
# The 2.5 and 97.5 percentiles of numbers that are evenly spaced over [-0.2, 0.2].
HALF_WIDTH = 0.95 * 0.2


def write_score(
    results: Path, evaluation: Evaluation, values: float | dict[str, float], spread: float = 1.0, examples: str = ""
) -> None:
    """The resamplings are evenly spaced around the value."""
    by_metric = values if isinstance(values, dict) else {"average_precision": values}
    scores = {
        name: {"value": value, "resampled": (value + spread * SPREAD).tolist()} for name, value in by_metric.items()
    }
    paired = {"examples": examples or evaluation.column, "scores": scores}
    result = {"single_label": "accuracy" in by_metric, "paired": paired}
    path = results / SCORES / evaluation.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"evaluation": dataclasses.asdict(evaluation), "result": result}))


def write_training(results: Path, network: Network, steps: int, minutes: float) -> None:
    path = results / TRAININGS / f"{network.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    work = {"gflop_per_view": 0.5, "num_weights": 1000}
    record = {"network": dataclasses.asdict(network), "steps": steps, "minutes": minutes, **work, "metrics": {}}
    path.write_text(json.dumps(record))


def retrieval(score: float) -> dict[str, float]:
    return {"chain/recall_at_1": score, "clean/recall_at_1": score + 0.1, "chain/mean_reciprocal_rank": score + 0.05}


@pytest.fixture
def results(tmp_path) -> Path:
    """Two encoders, two seeds of CLMR for the first; one supervised network with all and two with a tenth."""
    folder = tmp_path / "results"
    folder.mkdir()
    settings = {"minutes": 2, "width": 0.5, "batch_size": 64, "precision": "fastest", "corpus": "games"}
    trainings = {
        "mel_cnn contrastive": {"precision": "mixed_bfloat16"},
        "mel_cnn supervised": {"precision": "mixed_bfloat16"},
        "tune contrastive": {"precision": "float32"},
    }
    plan = {"settings": settings, "num_cpus": 2, "trainings": trainings}
    (folder / PLAN_FILE).write_text(json.dumps(plan))
    first, second = Network("clmr", "mel_cnn", 1), Network("clmr", "mel_cnn", 2)
    other, untrained = Network("clmr", "tune", 1), Network("untrained", "mel_cnn")
    early = Network("clmr", "mel_cnn", 1, step=20)
    write_training(folder, first, 80, 2.1)
    write_training(folder, second, 80, 2.3)
    write_training(folder, other, 40, 2.0)
    write_training(folder, early, 20, 0.525)
    write_score(folder, Evaluation(first, "pseudo-tags"), 0.6)
    write_score(folder, Evaluation(second, "pseudo-tags"), 0.64)
    write_score(folder, Evaluation(other, "pseudo-tags"), 0.5)
    write_score(folder, Evaluation(early, "pseudo-tags"), 0.55)
    # Its resamplings deviate half as far, so those of a difference do, too.
    write_score(folder, Evaluation(untrained, "pseudo-tags"), 0.52, spread=0.5)
    write_score(folder, Evaluation(Network("mel"), "pseudo-tags"), 0.45)
    write_score(folder, Evaluation(first, "artist"), {"accuracy": 0.4, "average_precision": 0.9})
    write_score(folder, Evaluation(first, "retrieval"), retrieval(0.7))
    write_score(folder, Evaluation(untrained, "retrieval"), retrieval(0.3))
    for network, draw, score in ((first, 1, 0.3), (first, 2, 0.34), (second, 1, 0.2), (second, 2, 0.28)):
        write_score(folder, Evaluation(network, "pseudo-tags", 0.1, draw), score)
    for seed, score in ((1, 0.25), (2, 0.26)):
        network = Network("supervised", "mel_cnn", seed, column="pseudo-tags", labels=0.1)
        write_training(folder, network, 70, 1.5)
        write_score(folder, Evaluation(network, "pseudo-tags", 0.1), score)
    whole = Network("supervised", "mel_cnn", 1, column="pseudo-tags")
    write_training(folder, whole, 90, 1.9)
    write_score(folder, Evaluation(whole, "pseudo-tags"), 0.59)
    return folder


def test_rows_are_means_over_seeds_with_intervals_and_compute(results):
    table = table_of(results)
    rows = {(row["encoder"], row["training"]): row for row in table["rows"]}
    assert list(rows) == [
        *(("mel_cnn", training) for training in ("untrained", "clmr", "supervised")),
        ("tune", "clmr"),
        (None, "mel"),
    ]
    assert list(table["columns"]) == ["pseudo-tags", "artist", "retrieval", "retrieval-clean", "retrieval-mrr"]
    assert table["columns"]["artist"] == "accuracy"
    clmr = rows["mel_cnn", "clmr"]
    score = clmr["scores"]["pseudo-tags"]
    # Without the earlier checkpoint.
    assert score["mean"] == pytest.approx(0.62) and score["range"] == [0.6, 0.64] and score["num_results"] == 2
    assert score["interval"] == pytest.approx([0.62 - HALF_WIDTH, 0.62 + HALF_WIDTH])
    assert clmr["minutes"] == [2.1, 2.3] and clmr["steps"] == [80, 80] and clmr["gflop_per_view"] == 0.5
    # The networks that learned from few labels are not in this row.
    assert rows["mel_cnn", "supervised"]["minutes"] == [1.9, 1.9]
    assert rows["mel_cnn", "supervised"]["scores"]["pseudo-tags"]["mean"] == 0.59
    assert rows["mel_cnn", "untrained"]["gflop_per_view"] == 0.5 and "minutes" not in rows["mel_cnn", "untrained"]
    assert clmr["scores"]["artist"]["mean"] == 0.4
    assert {name: clmr["scores"][name]["mean"] for name in list(table["columns"])[2:]} == pytest.approx(
        {"retrieval": 0.7, "retrieval-clean": 0.8, "retrieval-mrr": 0.75}
    )


def test_differences_are_paired_by_seed_and_draw(results):
    found = {
        (one["minuend"]["encoder"], *one["subtrahend"].values(), one["column"], one["labels"]): one
        for one in table_of(results)["differences"]
    }
    learned = found["mel_cnn", "mel_cnn", "untrained", "pseudo-tags", 1.0]
    assert learned["mean"] == pytest.approx(0.1) and learned["range"] == pytest.approx([0.08, 0.12])
    assert learned["interval"] == pytest.approx([0.1 - HALF_WIDTH / 2, 0.1 + HALF_WIDTH / 2])
    # Draw 1 of seed 1 and draw 2 of seed 2: 0.30 - 0.25 and 0.28 - 0.26; equal deviations leave an interval of width 0.
    few = found["mel_cnn", "mel_cnn", "supervised", "pseudo-tags", 0.1]
    assert few["num_results"] == 2 and few["range"] == pytest.approx([0.02, 0.05])
    assert [few["mean"], *few["interval"]] == pytest.approx([0.035] * 3)
    # Only seed 1 has both.
    assert found["mel_cnn", "mel_cnn", "supervised", "pseudo-tags", 1.0]["mean"] == pytest.approx(0.01)
    between = found["tune", "mel_cnn", "clmr", "pseudo-tags", 1.0]
    assert between["mean"] == pytest.approx(-0.1) and between["num_results"] == 1
    assert found["tune", None, "mel", "pseudo-tags", 1.0]["mean"] == pytest.approx(0.05)
    assert found["mel_cnn", "mel_cnn", "untrained", "retrieval", 1.0]["mean"] == pytest.approx(0.4)


def test_curves_over_labels_and_over_time(results):
    table = table_of(results)
    few = {(row["encoder"], row["training"], row["labels"]): row for row in table["few_labels"]}
    assert few["mel_cnn", "clmr", 0.1]["mean"] == pytest.approx((0.3 + 0.34 + 0.2 + 0.28) / 4)
    assert few["mel_cnn", "clmr", 0.1]["range"] == [0.2, 0.34]
    assert few["mel_cnn", "clmr", 1.0]["mean"] == pytest.approx(0.62)
    assert {row["column"] for row in table["few_labels"]} == {"pseudo-tags"}
    curve = [
        (point["steps"], point["minutes"], point["mean"]) for point in table["curves"] if point["encoder"] != "tune"
    ]
    assert curve == [(0, 0.0, 0.52), (20, 0.525, 0.55), (80, 2.1, 0.6)]


def test_markdown_shows_the_numbers(results):
    write_tables(results)
    text = (results / "table.md").read_text(encoding="utf-8")
    assert text == markdown(json.loads((results / "table.json").read_text()))
    assert "mixed_bfloat16 (mel_cnn contrastive, mel_cnn supervised) or float32 (tune contrastive)" in text
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert cells[0][:6] == ["encoder", "training", "minutes", "steps", "GFLOP a view", "pseudo-tags: PR-AUC"]
    assert cells[3][:6] == ["mel_cnn", "CLMR", "2.1 to 2.3", "80", "0.50", "0.620 [0.430, 0.810]"]
    learned = next(row for row in cells if row[0] == "mel_cnn CLMR - mel_cnn untrained")
    assert learned[1:3] == ["100 %", "+0.100 [+0.005, +0.195] +0.080 to +0.120"]
    few = next(row for row in cells if row[:2] == ["mel_cnn CLMR - mel_cnn supervised", "10 %"])
    assert few[2] == "+0.035 [+0.035, +0.035] +0.020 to +0.050"
    assert ["mel_cnn", "CLMR", "0.280 [0.090, 0.470]", "0.620 [0.430, 0.810]"] in cells
    assert ["mel_cnn", "0.5", "20", "0.550 [0.360, 0.740]"] in cells


def test_an_unfinished_comparison_has_the_tables_of_what_is_there(results):
    for path in (results / SCORES).glob("*/*"):
        if path.parent.name != "mel_cnn-clmr-1" or path.name != "pseudo-tags-labels-1-draw-1.json":
            path.unlink()
    table = table_of(results)
    (row,) = table["rows"]
    assert row["scores"]["pseudo-tags"]["mean"] == 0.6
    assert table["differences"] == table["few_labels"] == table["curves"] == []
    assert "| mel_cnn | CLMR | 2.1 to 2.3 | 80 | 0.50 | 0.600 [0.410, 0.790] |" in markdown(table)


def test_results_that_do_not_belong_together_are_an_error(results):
    other = Evaluation(Network("untrained", "mel_cnn"), "pseudo-tags")
    write_score(results, other, 0.5, examples="other songs")
    with pytest.raises(ClmrError, match=r"mel_cnn-untrained/.*json are about other recordings or labels; remove"):
        table_of(results)
    (results / SCORES / other.file).write_text("{}")
    with pytest.raises(ClmrError, match=r"draw-1\.json is not a result of this benchmark \('evaluation'\); remove it"):
        table_of(results)


def test_the_results_page_has_the_recorded_tables_and_pictures(results, tmp_path, monkeypatch, capsys):
    docs = tmp_path / "docs"
    (docs / "runs").mkdir(parents=True)
    monkeypatch.setattr(make, "DOCS", docs)
    monkeypatch.setattr(make, "RUNS", docs / "runs")
    encoders.record(results, docs)
    text = encoders.section(docs)
    assert (
        "python -m benchmarks.encoders --minutes 2 --seeds 2 --width 0.5`" in text
        and markdown(table_of(results)) in text
    )
    for name in ("encoders-few-labels", "encoders-time"):
        assert f"]({name}.png)" in text and (docs / f"{name}.png").is_file()
    table = json.loads((docs / encoders.RECORD).read_text())
    figure = encoders.draw(table["curves"], table["columns"], "minutes", "minutes")
    (panel,) = figure.axes
    curve = panel.containers[0].lines[0].get_xydata()
    assert curve == pytest.approx(np.array([[0, 0.52], [0.525, 0.55], [2.1, 0.6]]))
    plt.close(figure)
    (docs / encoders.RECORD).unlink()
    assert "Not measured yet" in encoders.section(docs)
    assert run_command(make.main, ["--record-encoders", str(tmp_path / "nowhere")]) == 2
    assert "nowhere holds no comparison of encoders" in capsys.readouterr().err
