"""Taught tags: what a few marks find, their precision, offers, corrections, and their use as tags."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.special import expit
from scipy.stats import binomtest

from clmr_tf import tag, teach
from clmr_tf.console import run_command
from clmr_tf.inference.encoder import Tagger
from clmr_tf.inference.library import Library
from clmr_tf.inference.tables import read_manifest, write_npz
from clmr_tf.inference.teaching import Space, Teacher, fit_points, precision_of
from clmr_tf.inference.tensorflow_encoder import tensorflow_encoder
from tests.clmr_tf.probed import CLIP, tiny_model
from tests.clmr_tf.taught_library import NUM_WINDOWS, SILENT, SONGS_PER_FOLDER, WINDOW_SECONDS, write_table
from tests.synthetic import melody


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with music and its table."""
    folder = tmp_path_factory.mktemp("taught")
    write_table(folder / "music", folder / "table")
    return folder


@pytest.fixture
def table(written, tmp_path) -> Path:
    """The table without any tags; the other files of the folder are the test's own."""
    link = tmp_path / "table"
    link.symlink_to(written / "table")
    return link


@pytest.fixture
def run(written, table, monkeypatch, capsys):
    """Runs the command in the folder of the music; returns exit code, standard output and error."""
    monkeypatch.chdir(written / "music")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_command(teach.main, [str(table), *arguments])
        return code, *capsys.readouterr()

    return run


def folders_of(lines: list[str]) -> list[str]:
    return [Path(line.split("  ")[2]).parent.name for line in lines]


def test_one_song_finds_those_that_are_like_it_and_the_file_says_how(run, table, written):
    code, out, _ = run("--tag", "bright", "--yes", "brass/1.wav", "--top", "6", "--offers", "0")
    lines = out.splitlines()
    assert code == 0 and lines[0] == "bright: 1 yes, 0 no. Precision: unknown."
    assert folders_of(lines[1:]) == ["brass"] * SONGS_PER_FOLDER and "(yes)" in lines[1]
    plain = json.loads((table.parent / "table.tags.json").read_text())["tags"]["bright"]
    head, library = plain["head"], Library(table)
    expected = expit(library.means.astype(np.float64) @ head["weights"] + head["bias"])
    shown = {line.split("  ")[2]: float(line.split()[0]) for line in lines[1:]}
    for path, probability in shown.items():
        assert probability == pytest.approx(expected[library.paths.index(path)], abs=6e-4)
    assert plain["changes"] == [[{"path": str(written / "music/brass/1.wav"), "answer": "yes", "seconds": None}]]


def test_precision_is_unknown_before_five_marks_and_then_that_of_heads_that_have_not_seen_the_song(run, table):
    run("--tag", "bright", "--yes", "brass/1.wav", "brass/2.wav", "--no", "harp/1.wav", "piano/1.wav")
    teacher = Teacher(Library(table))
    assert teacher.require("bright").precision is None
    _, out, _ = run("--tag", "bright", "--yes", "brass/3.wav")
    # All three are found by the heads of the others.
    low, high = binomtest(3, 3).proportion_ci(method="wilson")
    assert (
        f"3 yes, 2 no. Precision: 1.00 (95 %: {low:.2f} to {high:.2f}), cross-validated; 3 marked songs or moments"
        in out
    )
    # A mistake of the person: a song that is like the others, but is marked as no.
    run("--tag", "bright", "--no", "brass/4.wav")
    points = teacher.space.songs[[1, 2, 3, 4, 7, 13]]
    is_yes = np.array([True, True, True, False, False, False])
    right = said = 0
    for own in range(6):
        others = np.arange(6) != own
        says = fit_points(points[others], is_yes[others]).logits(points[[own]])[0] > 0
        said, right = said + says, right + (says and is_yes[own])
    found = teacher.require("bright").precision
    low, high = binomtest(int(right), int(said)).proportion_ci(method="wilson")
    assert (found.num_marks, found.estimate) == (said, right / said) and found.estimate < 1
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_all_marks_of_a_song_are_left_out_together():
    generator = np.random.default_rng(0)
    songs = np.repeat(np.arange(6), 8)
    is_yes = songs < 3
    # Each song is a point of its own, so that only a head that has seen the song would say yes.
    points = Space(generator.normal(size=(100, 512)).astype(np.float32)).songs[:6][songs]
    assert precision_of(points, is_yes, songs) is None
    assert precision_of(points, is_yes, np.arange(48)).estimate == 1


def test_offers_are_uncertain_different_and_neither_marked_nor_silent(table):
    library = Library(table)
    teacher = Teacher(library)
    marks = [teacher.mark_of(library.paths[row], answer) for row, answer in ((1, "yes"), (2, "yes"), (13, "no"))]
    taught = teacher.mark("bright", marks)
    every = teacher.offers(taught, 100)
    silent = next(row for row, path in enumerate(library.paths) if path.endswith(SILENT))
    assert sorted(every) == [row for row in range(len(library.paths)) if row not in (1, 2, 13, silent)]
    # The same song twice: the second is offered last.
    means = library.means[[0, 0, 3, 8, 14]]
    nobody = np.zeros(5, bool)
    assert Space(means).offers(np.full(5, 0.5), [], nobody, 5)[-1] in (0, 1)
    # Equally different, but one is certain.
    assert Space(np.eye(3, 512, dtype=np.float32)).offers(np.array([0.99, 0.4, 0.01]), [], np.zeros(3, bool), 1) == [1]


def test_corrections_are_undone_to_the_same_file(run, table):
    file = table.parent / "table.tags.json"
    contents = []
    for arguments in (
        ("--yes", "brass/1.wav", "brass/2.wav", "--no", "harp/1.wav"),
        ("--no", "brass/2.wav"),
        ("--unmark", "harp/1.wav"),
    ):
        assert run("--tag", "bright", *arguments)[0] == 0
        contents.append(file.read_bytes())
    assert "bright: 1 yes, 1 no." in run("--tag", "bright")[1]
    for before in contents[-2::-1]:
        assert run("--tag", "bright", "--undo")[0] == 0
        assert file.read_bytes() == before
    assert run("--tag", "bright", "--undo")[1] == "bright no longer has any marks.\n"
    code, _, error = run("--tag", "bright", "--undo")
    assert code == 2 and error == "error: There is no taught tag 'bright'; there are: none yet.\n"


def test_marks_of_songs_that_left_the_table_are_shown_and_taken_back(run, table):
    run("--tag", "bright", "--yes", "brass/1.wav", "brass/2.wav@3.5", "--no", "brass/2.wav")
    file = table.parent / "table.tags.json"
    file.write_text(file.read_text().replace("brass/2.wav", "brass/gone.wav"))
    lines = run("--tag", "bright")[1].splitlines()
    gone = str(Path("brass/gone.wav").absolute())
    assert lines[0].startswith("bright: 2 yes, 1 no.")
    assert lines[2:4] == [f"  no  {gone}", f"  yes  {gone}@3.5"]
    # By any path of the file, but only what was marked.
    _, out, _ = run("--tag", "bright", "--unmark", "brass/gone.wav")
    assert out.startswith("bright: 2 yes, 0 no.")
    _, out, _ = run("--tag", "bright", "--unmark", lines[3].split()[1])
    assert out.startswith("bright: 1 yes, 0 no.") and "gone" not in out
    for option, path in (("--unmark", "brass/never.wav"), ("--yes", "brass/gone.wav"), ("--unmark", "~nobody.wav")):
        code, _, error = run("--tag", "bright", option, path)
        assert code == 2 and error.startswith(f"error: {path} is not in ")


def test_float32_and_8_bit_integers_are_the_same_model(run, table):
    run("--tag", "bright", "--yes", "brass/1.wav")
    file = table.parent / "table.tags.json"
    file.write_text(file.read_text().replace('"drawn"', '"drawn-int8"'))
    assert run("--tag", "bright")[0] == 0


def test_a_moment_teaches_its_window_only(run, table):
    # The last window of the first song is like the songs of the folder harp.
    moment = f"brass/0.wav@0:{(NUM_WINDOWS - 0.5) * WINDOW_SECONDS:g}"
    _, out, _ = run("--tag", "soft", "--yes", moment, "--top", "6", "--offers", "0")
    assert out.startswith("soft: 1 yes, 0 no.") and folders_of(out.splitlines()[1:]) == ["harp"] * SONGS_PER_FOLDER
    _, out, _ = run("--tag", "hard", "--yes", "brass/0.wav@1.5", "--top", "6", "--offers", "0")
    assert folders_of(out.splitlines()[1:]) == ["brass"] * SONGS_PER_FOLDER
    assert run("--tag", "soft", "--no", "brass/0.wav@9:59")[2].endswith("so 599 s is past its end.\n")


def test_labels_of_a_file_and_an_npz_table_give_the_same_heads(run, table, tmp_path, monkeypatch):
    labels = tmp_path / "labels.csv"
    labels.write_text("path,answer,tag,seconds\nbrass/1.wav,yes,,\nharp/2.wav,NO,bright,\nbrass/0.wav,yes,soft,11\n")
    _, out, _ = run("--labels", str(labels), "--tag", "bright", "--top", "0", "--offers", "0")
    assert {line.partition(".")[0] for line in out.splitlines()} == {"bright: 1 yes, 1 no", "soft: 1 yes, 0 no"}
    of_folder = json.loads((tmp_path / "table.tags.json").read_text())
    write_npz(tmp_path / "table.npz", table, read_manifest(table))
    assert run_command(teach.main, [str(tmp_path / "table.npz"), "--labels", str(labels), "--tag", "bright"]) == 0
    assert json.loads((tmp_path / "table.npz.tags.json").read_text()) == of_folder


def test_labels_that_name_their_own_tags_show_these(run, table, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("path,answer,tag\nbrass/1.wav,yes,bright\n")
    code, out, error = run("--labels", str(labels), "--tag", "other", "--top", "0", "--offers", "0")
    assert (code, error) == (0, "") and out.startswith("bright: 1 yes, 0 no.") and out.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "needs a first line with the columns path, answer and optionally tag and seconds; received nothing."),
        ("song,answer\n", "optionally tag and seconds; received song, answer."),
        ("path,answer\nbrass/1.wav,yes\n\nbrass/2.wav,ja\n", "Line 4 of {} is not valid: A mark must have"),
        ("path,answer\nnowhere.wav,yes\n", "Line 2 of {} is not valid: nowhere.wav is not in "),
        ("path,answer\nbrass/1.wav,yes,no\n", "Line 2 of {} has more cells than the first line"),
        ("path,answer,tag\nbrass/1.wav,yes,a\nbrass/1.wav,yes,\t\n", "Line 3 of {} is not valid: A tag needs a name"),
    ],
)
def test_a_wrong_line_of_labels_is_named_and_nothing_changes(run, table, tmp_path, content, words):
    labels = tmp_path / "labels.csv"
    labels.write_text(content)
    code, _, error = run("--labels", str(labels), "--tag", "x")
    assert code == 2 and words.format(labels) in error and error.count("\n") == 1
    assert not (tmp_path / "table.tags.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tag", "x", "--yes", "nowhere.wav"], "nowhere.wav is not in "),
        (["--yes", "brass/1.wav"], 'Marks need a tag; give its name, as in --tag "guitar solo".'),
        (["--tag", "x", "--undo", "--no", "brass/1.wav"], "are different changes; give one of them"),
        (["--tag", "x\ny", "--yes", "brass/1.wav"], "needs a name of printable characters"),
        (["--tag", "x", "--labels", "nowhere.csv"], "nowhere.csv cannot be read"),
        (["--top", "-1"], "--top and --offers must be at least 0"),
    ],
)
def test_wrong_usage_is_one_sentence_and_changes_nothing(run, table, arguments, words):
    code, _, error = run(*arguments)
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1 and words in error
    assert not (table.parent / "table.tags.json").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not a file of taught tags, or is damaged"),
        ('{"format_version": 9}', "is of another version"),
        ('{"format_version": 1, "model_hash": "other", "tags": {}}', "was taught with another model"),
        (
            '{"format_version": 1, "model_hash": "drawn", "tags": {"x": {"head": {"weights": [1e999], "bias": 0}}}}',
            "damaged",
        ),
    ],
)
def test_a_damaged_file_is_refused_and_kept(run, table, content, words):
    file = table.parent / "table.tags.json"
    file.write_text(content)
    code, _, error = run("--tag", "x", "--yes", "brass/1.wav")
    assert code == 2 and words in error and file.read_text() == content


def test_taught_tags_are_tags_of_the_model(tmp_path, monkeypatch, capsys):
    model = tiny_model()
    own = Tagger(("loud",), lambda vectors: np.full((len(vectors), 1), 0.25, np.float32))
    encoder = tensorflow_encoder(model, tagger=own)
    monkeypatch.setattr("clmr_tf.inference.encoder.load_encoder", lambda folder, runtime="auto": encoder)
    write_table(tmp_path / "music", tmp_path / "table", encoder.model_hash)
    monkeypatch.chdir(tmp_path)
    run_command(teach.main, ["table", "--tag", "bright", "--yes", "music/brass/1.wav", "--no", "music/harp/1.wav"])
    head = json.loads((tmp_path / "table.tags.json").read_text())["tags"]["bright"]["head"]
    song = melody(3, 2 * CLIP)
    soundfile.write("song.wav", song, 22_050, subtype="FLOAT")
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    assert run_command(tag.main, ["song.wav", "--model", ".", "--taught", "table"]) == 0
    expected = expit(encoder.embed(song).vectors @ np.array(head["weights"]) + head["bias"]).mean()
    lines = dict(reversed(line.split()) for line in capsys.readouterr().out.splitlines()[1:])
    assert float(lines["bright"]) == pytest.approx(expected, abs=6e-4) and lines["loud"] == "0.250"
    # The file itself names the same tags.
    encoder.tagger = own
    assert run_command(tag.main, ["song.wav", "--model", ".", "--taught", "table.tags.json"]) == 0
    assert dict(reversed(line.split()) for line in capsys.readouterr().out.splitlines()[1:]) == lines
    # Added to a model that has the tag already.
    assert run_command(tag.main, ["song.wav", "--model", ".", "--taught", "table"]) == 2
    assert "both have the tag 'bright'; teach it under another name" in capsys.readouterr().err
    changed = tiny_model()
    changed.variables[0].assign_add(changed.variables[0] * 0 + 1)
    other = tensorflow_encoder(changed)
    monkeypatch.setattr("clmr_tf.inference.encoder.load_encoder", lambda folder, runtime="auto": other)
    assert run_command(tag.main, ["song.wav", "--model", ".", "--taught", "table"]) == 2
    assert "was taught with another model; give --model the one" in capsys.readouterr().err
