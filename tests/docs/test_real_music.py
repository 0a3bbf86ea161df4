"""The section about real music, made from results with known scores."""

import shutil

import pytest

from clmr_tf.errors import UsageError
from docs import real_music
from tests.clmr_tf.report.written_results import result, write, write_manifest

TASK = {"task": "pseudo-tags", "corpus": "debian-games-medium"}


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models"
    write_manifest(folder / "clmr", 2500, trained_on="debian-games-medium", batch_size=64, corpus="/home/ada/music")
    for fraction, score in ((1.0, 0.6), (0.1, 0.3)):
        labels = {"choice": "all" if fraction == 1 else "songs", "fraction": fraction, **TASK}
        write(folder / "clmr" / f"evaluation-model-{fraction}.json", result(score, kind="model", step=2500, **labels))
        write(folder / "clmr" / f"evaluation-mel-{fraction}.json", result(score - 0.2, **labels))
    artist = {"task": "artist", "corpus": "debian-games-medium", "accuracy": 0.5}
    write(folder / "clmr" / "evaluation-artist.json", result(0.4, kind="model", step=2500, **artist))
    for name, score in (("none", 0.2), ("only-filter", 0.35)):
        write_manifest(folder / name, 300, augmentation=name, width=0.25)
        write(folder / name / "evaluation-x.json", result(score, kind="model", step=300, **TASK))
    return folder


def test_tables_show_the_scores(models, tmp_path):
    records = tmp_path / "real_music"
    real_music.record(models, records)
    text = real_music.section(records)
    assert "on [debian-games-medium](debian_games.md): 200 songs to train on, 20 in\nthe test split." in text
    assert "2,500 steps of 64 pairs" in text
    assert "Labels: 10 % of the songs (20 of 200); all (200 songs). The valid split" in text
    (picture,) = records.glob("*-few-labels.png")
    assert f"](real_music/{picture.name})" in text
    # Protocols and seeds without results are not mentioned.
    assert "In the released protocol" in text and "thesis" not in text and "drawn several times" not in text
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert cells == [
        ["features and head", "accuracy", "95 %"],
        ["---"] * 3,
        ["CLMR linear", "0.500", "0.460 to 0.560"],
        ["", "10 %", "100 %"],
        ["---"] * 3,
        ["mel statistics linear", "0.100 (0.060 to 0.160)", "0.400 (0.360 to 0.460)"],
        ["CLMR linear", "0.300 (0.260 to 0.360)", "0.600 (0.560 to 0.660)"],
        ["augmentation", "PR-AUC", "95 %", "seed", "published, MagnaTagATune: PR-AUC"],
        ["---"] * 5,
        ["crop alone", "0.200", "0.160 to 0.260", "42/42", "0.3049"],
        ["filter", "0.350", "0.310 to 0.410", "42/42", "0.3332"],
    ]
    assert (records / "report.md").read_text().startswith("# Evaluations")
    assert "/home" not in (records / "clmr" / "manifest.json").read_text()


def test_second_record_replaces_the_first_and_empty_records_are_rejected(models, tmp_path):
    records = tmp_path / "real_music"
    assert real_music.section(records) == ""
    real_music.record(models, records)
    real_music.section(records)
    (models / "none" / "evaluation-x.json").rename(models / "only-filter" / "evaluation-y.json")
    (models / "none" / "manifest.json").unlink()
    real_music.record(models, records)
    # If both records were kept, the report would merge them into one row.
    assert {path.name for path in records.iterdir()} == {"clmr", "only-filter"}
    assert {path.name for path in (records / "only-filter").iterdir()} == {
        "manifest.json",
        "evaluation-x.json",
        "evaluation-y.json",
    }
    with pytest.raises(UsageError, match=r"There is no model folder in .*; run python -m benchmarks\.real_music first"):
        real_music.record(tmp_path / "nowhere", records)
    assert records.is_dir()
    shutil.rmtree(records / "clmr")
    with pytest.raises(
        UsageError, match=r"has no result of CLMR with the pseudo-tags; run python -m benchmarks\.real_m"
    ):
        real_music.section(records)
