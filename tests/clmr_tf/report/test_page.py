"""The page: its sections, its tables with the numbers of the files, and published numbers."""

import re

import matplotlib.pyplot as plt
import pytest

from clmr_tf.report.page import make_report, sections_of
from clmr_tf.report.results import read_results
from tests.clmr_tf.report.written_results import result, write, write_manifest


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def tables_of(page: str) -> list[list[list[str]]]:
    """The cells of every table, without the line below the headings."""
    blocks = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    return [[[cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines()] for block in blocks]


def sections_in(folder, *results):
    for number, one in enumerate(results):
        write(folder / f"{number}" / "evaluation-x.json", one)
    return sections_of(read_results(folder))


def files_of(section) -> list[str]:
    return sorted(one.file[0] for row in section.rows for one in row.results)


def test_every_corpus_and_task_is_a_section(tmp_path):
    sections = sections_in(
        tmp_path,
        result(0.5, task="mood"),
        result(0.5),
        result(0.5, corpus="albums"),
        result(0.5, task="mood", head="mlp"),
    )
    assert [(section.heading, section.slug, files_of(section)) for section in sections] == [
        ("albums", "albums", ["2"]),
        ("songs", "songs", ["1"]),
        ("songs, task mood", "songs-task-mood", ["0", "3"]),
    ]


def test_other_audio_other_labels_and_other_test_splits_are_sections_of_their_own(tmp_path):
    other_task = result(0.5, task="mood")
    other_task["task"]["fingerprint"] = "8" * 64
    described = result(0.5, task="mood", seed=43)
    described["task"]["description"] = "Results had no description of their task once."
    sections = sections_in(
        tmp_path,
        result(0.5, task="mood"),
        result(0.5, task="mood", fingerprint="d" * 64),
        other_task,
        result(0.5, task="mood", num_test_clips=24),
        result(0.5, task="mood", tags=("guitar", "piano")),
        result(0.5, task="mood", accuracy=0.5),
        described,
    )
    assert sorted(map(files_of, sections)) == [["0", "6"], ["1"], ["2"], ["3"], ["4"], ["5"]]
    assert len({section.heading for section in sections}) == len({section.slug for section in sections}) == 6


def test_names_in_any_script_have_file_names_of_their_own(tmp_path):
    sections = sections_in(tmp_path, *(result(0.5, corpus=name) for name in ("音楽", "музыка", "a b", "A-B")))
    assert sorted(section.slug for section in sections) == ["a-b", "a-b-2", "музыка", "音楽"]


def test_every_number_of_the_page_is_that_of_its_file(tmp_path):
    few = {"choice": "songs", "fraction": 0.1}
    values = {"guitar": 0.2, "piano": 0.6, "harp": 0.4}
    write(tmp_path / "base" / "evaluation-mel.json", result({"guitar": 0.35, "piano": 0.25, "harp": 0.15}))
    write(tmp_path / "base" / "evaluation-few.json", result(0.25, **few))
    for seed, value in ((42, 0.22), (43, 0.26)):
        write(tmp_path / "base" / f"evaluation-{seed}.json", result(value, kind="untrained", seed=seed))
    for name, value in (("none", 0.3), ("only-filter", values)):
        write_manifest(tmp_path / name, augmentation=name, trained_on="albums", batch_size=96, seed=7)
        write(tmp_path / name / "evaluation-x.json", result(value, kind="model", model_hash=f"{name:x<64}"))
    write_manifest(tmp_path / "supervised", step=1234, objective="supervised", seed=7)
    own = result({"guitar": 0.3, "piano": 0.5, "harp": 0.25}, kind="model", head="own", step=1234, model_hash=64 * "5")
    write(tmp_path / "supervised" / "evaluation-x.json", own)
    page, figures = make_report(read_results(tmp_path))
    main, few_labels, by_tag, augmentations, files = tables_of(page)

    columns = ["features and head", "ROC-AUC", "PR-AUC", "training steps", "training", "seed"]
    places = [main[0].index(column) for column in columns]
    trained = "on albums, batch size 96, width 0.5, augmentation"
    assert [[row[place] for place in places] for row in main[2:]] == [
        ["mel statistics linear", "0.350", "0.250", "-", "-", "42"],
        ["untrained SampleCNN linear", "0.340 ± 0.028", "0.240 ± 0.028", "-", "width 0.5", "42, 43"],
        ["SampleCNN supervised", "0.450", "0.350", "1,234", "on songs, width 0.5", "7/42"],
        ["CLMR linear", "0.400", "0.300", "100", f"{trained} none", "7/42"],
        ["CLMR linear", "0.500", "0.400", "100", f"{trained} only-filter", "7/42"],
        ["mel statistics linear", "0.350", "0.250", "-", "-", "42"],
    ]
    # Intervals of the test results are from 0.04 below to 0.06 above.
    assert [row[main[0].index("PR-AUC") + 1] for row in main[2:4]] == ["0.210 to 0.310", "0.200 to 0.300"]
    assert few_labels[2:] == [["mel statistics linear", "0.250 (0.210 to 0.310)", "0.250 (0.210 to 0.310)"]]
    assert by_tag[2:] == [
        ["piano", "0.600", "0.500", "0.700", "0.600"],
        ["harp", "0.400", "0.250", "0.500", "0.350"],
        ["guitar", "0.200", "0.300", "0.300", "0.400"],
    ]
    assert [[row[0], row[3], row[-1]] for row in augmentations[2:]] == [
        ["crop alone", "0.300", "0.3049"],
        ["filter", "0.400", "0.3332"],
    ]
    assert [row[0] for row in files[2:]] == ["1", "2", "2", "3", "4", "5", "6"]
    assert files[2][1:] == ["`base/evaluation-mel.json`", "-"]
    assert set(figures) == {"songs-few-labels.png", "songs-tags.png", "songs-augmentations.png"}
    assert set(re.findall(r"\]\(([^)]*\.png)\)", page)) == set(figures)


def test_published_numbers_are_on_their_corpus_only(tmp_path):
    options = {"corpus": "magnatagatune-pons2017", "num_test_clips": 5329}
    # The thesis' 3,000 epochs.
    training = {"augmentation": "thesis", "batch_size": 96, "optimizer": "lars", "width": 1.0}
    write_manifest(tmp_path / "clmr", 120_000, "magnatagatune-pons2017", **training)
    model = {"kind": "model", "preset": "thesis", "step": 120_000, **options}
    write(tmp_path / "clmr" / "evaluation-x.json", result(0.35, **model))
    write(tmp_path / "clmr" / "evaluation-few.json", result(0.3, choice="like-paper", fraction=0.01, **model))
    page, _ = make_report(read_results(tmp_path))
    main, labels, published, _ = tables_of(page)
    assert [row[-1] for row in main[2:]] == [
        "-, 0.3511 (labels-mtt-clmr-100); 0.8849, 0.3511 (mtt-epochs-3000)",
        "-, 0.3312 (labels-mtt-clmr-1)",
    ]
    assert ["published: CLMR linear", "0.3312", "0.3344"] in [row[:3] for row in labels]
    readme = ["main table", "MagnaTagATune, SampleCNN / CLMR, 48 / 10000, CLMR linear", "0.887", "0.356"]
    assert readme in [row[:4] for row in published]
    assert "[README of the released code (July 2021)](https://github.com/Spijkervet/CLMR)" in page
    assert "do not compare" not in page

    # Without a part of the audio, and on another corpus.
    for path in tmp_path.rglob("evaluation-*.json"):
        path.unlink()
    write(tmp_path / "evaluation-a.json", result(0.35, **{**options, "num_test_clips": 5000}))
    write(tmp_path / "evaluation-b.json", result(0.35))
    pons, songs = make_report(read_results(tmp_path))[0].split("## songs")
    assert "The published test split has 5,329 clips; do not compare" in pons and "ublished" not in songs


def test_the_page_names_what_is_not_scored_and_not_known(tmp_path):
    entries = result({"guitar": 0.5}, kind="model")
    entries["scores"]["test"]["tags_without_negatives"] = ["guitar"]
    write(tmp_path / "a" / "evaluation-x.json", entries)
    write(tmp_path / "b" / "evaluation-x.json", result(0.5, fingerprint="d" * 64))
    page, _ = make_report(read_results(tmp_path))
    assert "Not scored, because no test clip has them: piano, harp." in page
    assert "Not scored, because all test clips have them: guitar." in page
    assert "It is not known how the models of row 1 were trained" in page
    assert "Another section has the same name" in page.partition("## songs (2)")[2]


def test_a_name_with_a_bar_is_one_cell(tmp_path):
    options = {"tags": ("a|b", "x")}
    write(tmp_path / "evaluation-x.json", result(0.5, **options))
    write(tmp_path / "evaluation-y.json", result(0.5, kind="model", **options))
    page, _ = make_report(read_results(tmp_path))
    assert "| a&#124;b | 0.500 |" in page
    assert all(len({len(row) for row in table}) == 1 for table in tables_of(page))


def test_differences_are_those_of_the_results(tmp_path):
    features = {"kind": "untrained", "seed": 42}
    scores = {
        "average_precision": {"mean": 0.125, "interval": [-0.02, 0.25]},
        "roc_auc": {"mean": None, "interval": None},
    }
    compared = result(0.5, preset="standard", kind="model")
    compared["differences"] = [
        {"minus": {"features": features}, "scores": scores},
        {"minus": {"file": "other/evaluation-a.json", "features": {"kind": "model"}}, "scores": scores},
    ]
    # The validation split chooses the strength, so two seeds with other strengths are one row.
    again = result(0.5, preset="standard", kind="model", seed=43)
    compared["protocol"]["head"]["l2"], again["protocol"]["head"]["l2"] = 0.1, 0.001
    (section,) = sections_in(tmp_path, compared, again)
    (row,) = section.rows
    assert row.protocol_text == "standard"
    page, _ = make_report(read_results(tmp_path))
    (table,) = [table for table in tables_of(page) if table[0][1] == "minus"]
    shown = ["-", "-", "+0.125", "-0.020 to +0.250"]
    assert table[2:] == [
        ["1: CLMR linear", "untrained, seed 42", *shown],
        ["1: CLMR linear", "`other/evaluation-a.json`", *shown],
    ]
    assert "### Differences" not in make_report(read_results(tmp_path / "1"))[0]
