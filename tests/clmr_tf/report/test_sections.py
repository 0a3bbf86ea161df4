"""What may stand in one table: one corpus, one task, one version of both."""

from clmr_tf.report.page import sections_of
from clmr_tf.report.results import read_results
from tests.clmr_tf.report.written_results import result, write


def sections_in(folder, *plain):
    for number, one in enumerate(plain):
        write(folder / f"{number}" / "evaluation-x.json", one)
    found, skipped = read_results(folder)
    assert skipped == []
    return sections_of(found)


def files_of(section) -> list[str]:
    return sorted(one.file[0] for row in section.rows for one in row.results)


def test_corpora_and_tasks_are_sections(tmp_path):
    sections = sections_in(
        tmp_path,
        result(0.5, corpus="songs", task="mood"),
        result(0.5, corpus="songs"),
        result(0.5, corpus="albums"),
        result(0.5, corpus="songs", task="mood", head="mlp"),
    )
    assert [(section.heading, section.slug, files_of(section)) for section in sections] == [
        ("albums", "albums", ["2"]),
        ("songs", "songs", ["1"]),
        ("songs, task mood", "songs-task-mood", ["0", "3"]),
    ]


def test_other_audio_other_labels_and_other_tests_are_kept_apart(tmp_path):
    other_task = result(0.5, task="mood")
    other_task["task"]["fingerprint"] = "8" * 64
    sections = sections_in(
        tmp_path,
        result(0.5, task="mood"),
        result(0.5, task="mood", fingerprint="d" * 64),
        other_task,
        result(0.5, task="mood", num_test_clips=24),
        result(0.5, task="mood", tags=("guitar", "piano")),
        result(0.5, task="mood", accuracy=0.5),
        result(0.5, task="mood", seed=43),
    )
    assert sorted(map(tuple, map(files_of, sections))) == [("0", "6"), ("1",), ("2",), ("3",), ("4",), ("5",)]
    headings = [section.heading for section in sections]
    assert len(set(headings)) == len({section.slug for section in sections}) == 6
    assert "songs, task mood (dddddddddddd, 777777777777)" in headings
    assert "songs, task mood (cccccccccccc, 888888888888)" in headings


def test_names_in_any_script_give_file_names_of_their_own(tmp_path):
    sections = sections_in(tmp_path, *(result(0.5, corpus=name) for name in ("音楽", "музыка", "a b", "A-B")))
    assert sorted((section.heading, section.slug) for section in sections) == [
        ("A-B", "a-b-4"),
        ("a b", "a-b"),
        ("музыка", "2"),
        ("音楽", "1"),
    ]
