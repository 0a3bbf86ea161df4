"""The page of a whole folder: every table of it, word for word and number for number."""

import re
from pathlib import Path

import pytest

from clmr_tf.report.page import make_report
from clmr_tf.report.results import read_results
from tests.clmr_tf.report.written_results import result, write, write_manifest

EXPECTED = Path(__file__).with_name("expected_report.md")


def write_folder(folder: Path) -> Path:
    """Baselines, two augmentations, a supervised model, few labels of both kinds, a single-label task, a bad file."""
    values = {"guitar": 0.2, "piano": 0.6, "harp": 0.4}
    few, paper = {"choice": "songs", "share": 0.1}, {"choice": "like-paper", "share": 0.1}
    write(folder / "base" / "evaluation-majority.json", result(0.1, kind="majority"))
    write(folder / "base" / "evaluation-mel.json", result({"guitar": 0.35, "piano": 0.25, "harp": 0.15}))
    write(folder / "base" / "evaluation-mel-few.json", result(0.25, **few))
    for seed, value in ((42, 0.22), (43, 0.26)):
        write(folder / "base" / f"evaluation-untrained-{seed}.json", result(value, kind="untrained", seed=seed))
    for name, value in (("none", 0.3), ("only-filter", None)):
        write_manifest(folder / name, augmentation=name, trained_on="albums", batch_size=96, seed=7)
        plain = result(values if value is None else value, kind="model", model_hash=f"{name:x<64}")
        write(folder / name / "evaluation-songs.json", plain)
    for name, options, value in (("few", few, 0.375), ("paper", paper, 0.385)):
        plain = result(value, kind="model", model_hash=f"{'only-filter':x<64}", **options)
        write(folder / "only-filter" / f"evaluation-songs-{name}.json", plain)
    write_manifest(folder / "supervised", step=1234, objective="supervised", seed=7)
    own = result({"guitar": 0.3, "piano": 0.5, "harp": 0.25}, kind="model", head="own", step=1234, model_hash=64 * "5")
    write(folder / "supervised" / "evaluation-songs.json", own)
    write(folder / "base" / "evaluation-mood.json", result(0.5, task="mood", accuracy=0.75))
    (folder / "base" / "evaluation-bad.json").write_text("{")
    return folder


def tables_of(page: str) -> list[list[list[str]]]:
    """The cells of every table."""
    found: list[list[list[str]]] = [[]]
    for line in page.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def test_a_whole_folder_gives_the_expected_page(tmp_path):
    page, pictures = make_report(*read_results(write_folder(tmp_path)))
    assert page == EXPECTED.read_text(encoding="utf-8")
    assert set(re.findall(r"\]\(([^)]*\.png)\)", page)) == set(pictures)
    assert set(pictures) == {"songs-few-labels.png", "songs-tags.png", "songs-augmentations.png"}
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())
    again, same_pictures = make_report(*read_results(tmp_path))
    assert (again, same_pictures) == (page, pictures)


def test_every_number_of_the_main_table_is_that_of_its_file(tmp_path):
    results, skipped = read_results(write_folder(tmp_path))
    main, *_, files = tables_of(make_report(results, skipped)[0].partition("## songs, task mood")[0])
    file_of = {row[1].strip("`"): row[0] for row in files[2:]}
    columns = {"ROC-AUC": "roc_auc", "PR-AUC": "average_precision"}
    checked = 0
    for one in results:
        (row,) = [cells for cells in main[2:] if cells[0] == file_of.get(one.file, "")] or [None]
        if row is None or list(file_of.values()).count(row[0]) > 1:
            continue
        for heading, metric in columns.items():
            score = one.scores["test"][metric]["over_tags"]
            place = main[0].index(heading)
            assert row[place] == f"{score['mean']:.3f}"
            assert row[place + 1] == "{:.3f} to {:.3f}".format(*score["interval"])
            checked += 1
    assert checked == 2 * 8


def test_published_numbers_stand_beside_and_below_on_their_corpus_only(tmp_path):
    options = {"corpus": "magnatagatune-pons2017", "num_test_clips": 5329}
    # The thesis' 3,000 epochs.
    published = {"augmentation": "thesis", "batch_size": 96, "optimizer": "lars", "width": 1.0, "step": 120_000}
    write_manifest(tmp_path / "clmr", trained_on="magnatagatune-pons2017", **published)
    model = {"kind": "model", "preset": "thesis", "step": 120_000, **options}
    write(tmp_path / "clmr" / "evaluation-x.json", result(0.35, **model))
    few = result(0.3, choice="like-paper", share=0.01, **model)
    write(tmp_path / "clmr" / "evaluation-few.json", few)
    page, _ = make_report(*read_results(tmp_path))
    main, labels, published, _ = tables_of(page)
    assert main[0][-1] == "published: ROC-AUC, PR-AUC"
    assert [row[-1] for row in main[2:]] == ["0.8849, 0.3511 (thesis)", "-, 0.3312 (notebook)"]
    assert labels[-2][:3] == ["published: CLMR linear (notebook)", "0.3312", "0.3344"]
    assert labels[-1][:2] == ["published: SampleCNN supervised (notebook)", "0.2481"]
    assert published[2] == ["Main results", "CLMR linear", "0.887", "0.356", "10,000 epochs", "readme"]
    assert "[README of the released code, 24 July 2021](https://github.com/Spijkervet/CLMR)" in page
    assert "the published numbers are not to be compared" not in page

    # With a part of the audio, and on another split.
    for path in tmp_path.rglob("evaluation-*.json"):
        path.unlink()
    write(tmp_path / "evaluation-a.json", result(0.35, **{**options, "num_test_clips": 5000}))
    write(tmp_path / "evaluation-b.json", result(0.35, corpus="songs"))
    pons, songs = make_report(*read_results(tmp_path))[0].split("## songs")
    assert "The published test split has 5,329 clips, so the published numbers are not to be compared" in pons
    assert "ublished" not in songs


def test_sections_of_one_name_are_said_to_be_different(tmp_path):
    for number, fingerprint in enumerate(("c" * 64, "d" * 64)):
        write(tmp_path / f"evaluation-{number}.json", result(0.5, fingerprint=fingerprint))
    page, _ = make_report(*read_results(tmp_path))
    assert re.findall("^## (.*)$", page, re.MULTILINE) == ["songs (cccccccccccc)", "songs (dddddddddddd)"]
    assert "the numbers of one are not to be compared with those of another" in page


def test_what_the_scores_leave_out_is_said(tmp_path):
    plain = result({"guitar": 0.5}, kind="model")
    plain["scores"]["test"]["tags_without_negatives"] = ["guitar"]
    write(tmp_path / "evaluation-x.json", plain)
    page, _ = make_report(*read_results(tmp_path))
    assert "Not scored, since no test clip has them: piano, harp." in page
    assert "Not scored, since all test clips have them: guitar." in page
    assert "How the models of row 1 were trained is not known" in page


@pytest.mark.parametrize("name", ["a|b", "rock & roll", r"$\frac$ and $x_{$"])
def test_names_break_no_table_and_no_picture(tmp_path, name):
    tags = (name, "x")
    write(tmp_path / "evaluation-x.json", result(0.5, tags=tags))
    write(tmp_path / "evaluation-y.json", result(0.5, tags=tags, kind="model"))
    page, pictures = make_report(*read_results(tmp_path))
    for table in tables_of(page):
        assert len({len(row) for row in table}) == 1
    assert set(pictures) == {"songs-tags.png"}
