import csv
import dataclasses
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from clmr_tf.data.resolution import resolve_corpus
from clmr_tf.data.tasks import task_names_in
from clmr_tf.errors import ClmrError, UsageError
from pipelines import debian_games
from pipelines.debian_games import Options, Track, licences, main, prepare_corpus, read_tracks, split_of_songs
from pipelines.preparation.prepare import PrepareSettings
from tests.pipelines.debian_files import build_package, install_apt_get, needs_dpkg_deb, song, zipped

OPTIONS = Options(min_num_samples=22050, num_workers=1)

pytestmark = [needs_dpkg_deb, pytest.mark.usefixtures("no_workers")]


@pytest.fixture
def debian(tmp_path, monkeypatch):
    """Packages of two games, the table of their nine songs each, and an apt-get that knows them."""
    folder = tmp_path / "debian"
    folder.mkdir()
    songs = {number: song(tmp_path, number) for number in range(18)}
    digests = {number: hashlib.sha256(content).hexdigest() for number, content in songs.items()}
    build_package(folder, "a-music", {f"usr/a/{number}.flac": songs[number] for number in range(9)})
    inner = {f"music/{number}.flac": songs[number] for number in range(9, 18)}
    build_package(folder, "b-data", {"usr/b/data.pk3": zipped(inner, tmp_path)})
    tracks = [
        Track("small", "a-music", f"usr/a/{number}.flac", "a", "ann", f"a/{number}", "GPL-2+", digests[number])
        for number in range(9)
    ] + [
        Track(
            "medium",
            "b-data",
            f"usr/b/data.pk3/music/{number}.flac",
            "b",
            "",
            f"b/{number}",
            "CC-BY-3.0",
            digests[number],
        )
        for number in range(9, 18)
    ]
    write_table(folder / "table.csv", tracks)
    install_apt_get(folder, monkeypatch)
    return folder


def write_table(path, tracks):
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, [field.name for field in dataclasses.fields(Track)])
        table.writeheader()
        table.writerows(map(dataclasses.asdict, tracks))


def test_the_small_set_is_fetched_and_prepared_with_its_tasks(debian, tmp_path):
    corpus = prepare_corpus(tmp_path / "corpora/small", OPTIONS, debian / "table.csv")
    assert [item.id for item in corpus.items] == [f"a-music/usr/a/{number}.flac" for number in range(9)]
    splits = split_of_songs(read_tracks(debian / "table.csv"))
    assert {item.song_id: item.split for item in corpus.items} == {
        s: p for s, p in splits.items() if s.startswith("a/")
    }
    assert corpus.manifest.num_items == {"train": 6, "valid": 1, "test": 2}
    assert (
        "packages a-music 1:2.0-1; all recordings are those of the published list; licences: a-music: 9 GPL-2+"
        in corpus.manifest.source["description"]
    )
    assert "| a-music | 9 GPL-2+ |" in (corpus.folder / "LICENCES.md").read_text()
    assert task_names_in(corpus.folder) == ("artist", "soundtrack")
    tagged = corpus.for_task("artist")
    assert {item.tags for item in tagged.items} == {("ann",)}
    assert np.all(tagged.multi_hot(np.arange(len(tagged.items))) == 1)
    # The cache is beside the corpus, and nothing is fetched from it twice.
    assert (tmp_path / "corpora/downloads/debian-games").is_dir()
    again = prepare_corpus(tmp_path / "corpora/again", OPTIONS, debian / "table.csv")
    assert again.manifest.fingerprint == corpus.manifest.fingerprint
    assert (debian / "log").read_text().count("download a-music") == 1


def test_the_larger_set_holds_the_smaller_one_and_archives(debian, tmp_path):
    options = dataclasses.replace(OPTIONS, set="medium", cache=tmp_path / "cache")
    small = prepare_corpus(tmp_path / "small", dataclasses.replace(options, set="small"), debian / "table.csv")
    corpus = prepare_corpus(tmp_path / "medium", options, debian / "table.csv")
    assert len(corpus.items) == 18
    assert {item.id: item.split for item in small.items}.items() <= {
        item.id: item.split for item in corpus.items
    }.items()
    assert corpus.for_task("soundtrack").manifest.tag_names == ("a", "b")
    assert corpus.for_task("artist").manifest.num_songs == {"train": 6, "valid": 1, "test": 2}


def test_a_package_can_be_left_out(debian, tmp_path):
    options = dataclasses.replace(OPTIONS, set="medium", cache=tmp_path / "cache")
    without = dataclasses.replace(options, leave_out=("a-music",))
    corpus = prepare_corpus(tmp_path / "corpus", without, debian / "table.csv")
    assert {item.id.split("/")[0] for item in corpus.items} == {"b-data"}
    # No artist is left.
    assert task_names_in(corpus.folder) == ("soundtrack",)
    with pytest.raises(UsageError, match="no package c to leave out; choose from a-music, b-data"):
        prepare_corpus(tmp_path / "corpus", dataclasses.replace(options, leave_out=("c",)), debian / "table.csv")
    with pytest.raises(UsageError, match="All packages are left out"):
        both = dataclasses.replace(options, leave_out=("a-music", "b-data"))
        prepare_corpus(tmp_path / "corpus", both, debian / "table.csv")


def test_only_recordings_under_the_given_licences_are_kept(debian, tmp_path):
    rows = (debian / "table.csv").read_text().splitlines()
    # The first song of the other package may be used under either of two licences.
    rows[1] = rows[1].replace("GPL-2+", "MIT or GPL-2+")
    (debian / "table.csv").write_text("\n".join(rows) + "\n")
    options = dataclasses.replace(OPTIONS, set="medium", cache=tmp_path / "cache", licences=("CC-BY-3.0", "MIT"))
    corpus = prepare_corpus(tmp_path / "corpus", options, debian / "table.csv")
    assert [item.id.split("/")[0] for item in corpus.items] == ["a-music"] + 9 * ["b-data"]
    assert corpus.manifest.source["only_licences"] == "CC-BY-3.0, MIT"
    assert corpus.manifest.name == "debian-games-medium-selection"
    with pytest.raises(UsageError, match=r"under the licence GPL; choose from CC-BY-3\.0, GPL-2\+, MIT\."):
        prepare_corpus(tmp_path / "other", dataclasses.replace(options, licences=("GPL",)), debian / "table.csv")
    with pytest.raises(UsageError, match=r"was prepared with only_licences CC-BY-3\.0, MIT, not None"):
        prepare_corpus(tmp_path / "corpus", dataclasses.replace(options, licences=()), debian / "table.csv")


def test_the_folder_is_the_one_that_other_commands_look_for(debian, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(debian_games.prepare_corpus, "__defaults__", (debian / "table.csv",))
    main(["--min-num-samples", "22050", "--num-workers", "1"])
    assert "corpora/debian_games" in capsys.readouterr().out
    (tmp_path / "corpora/downloads").rename(tmp_path / "gone")
    monkeypatch.setenv("PATH", "")
    prepared = resolve_corpus("debian_games", corpora=Path("corpora"), sample_rate_hz=22050, clip_num_samples=22050)
    assert prepared.folder == Path("corpora/debian_games") and len(prepared.items) == 9
    assert [path.name for path in (tmp_path / "corpora").iterdir()] == ["debian_games"]


def test_cached_packages_need_no_network(debian, tmp_path):
    (debian / "unreachable").touch()
    with pytest.raises(ClmrError, match="could not fetch a-music"):
        prepare_corpus(tmp_path / "corpus", OPTIONS, debian / "table.csv")
    (debian / "unreachable").unlink()
    prepare_corpus(tmp_path / "corpus", OPTIONS, debian / "table.csv")
    (debian / "unreachable").touch()
    assert len(prepare_corpus(tmp_path / "other", OPTIONS, debian / "table.csv").items) == 9


def test_a_finished_corpus_needs_no_apt_get_and_lost_tasks_are_written_again(debian, tmp_path, monkeypatch):
    corpus = prepare_corpus(tmp_path / "corpus", OPTIONS, debian / "table.csv")
    task = corpus.folder / "tasks/artist.parquet"
    before = task.read_bytes()
    task.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    again = prepare_corpus(tmp_path / "corpus", OPTIONS, debian / "table.csv")
    assert (again.manifest, task.read_bytes()) == (corpus.manifest, before)
    for changes, complaint in (
        ({"set": "medium"}, "with set small, not medium"),
        ({"sample_rate_hz": 16000}, "with sample_rate_hz 22050, not 16000"),
        ({"reader": "direct"}, "with reader prepared, not direct"),
        ({"min_num_samples": 10**6}, "has an item of 66150 samples"),
    ):
        with pytest.raises(UsageError, match=complaint):
            prepare_corpus(tmp_path / "corpus", dataclasses.replace(OPTIONS, **changes), debian / "table.csv")


def test_settings_of_another_pipeline_prepare_the_small_set(debian, tmp_path):
    settings = PrepareSettings(min_num_samples=22050, num_workers=1)
    assert len(prepare_corpus(tmp_path / "corpus", settings, debian / "table.csv").items) == 9


def test_the_command_reports_a_missing_apt_get(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="no apt-cache on this machine; the music is in Debian packages"):
        main(["--out", str(tmp_path / "corpus")])
    assert list(tmp_path.iterdir()) == []


def test_licences_are_counted_by_package():
    page = (Path(__file__).parents[2] / "docs/debian_games.md").read_text(encoding="utf-8")
    for package, text in licences(read_tracks()).items():
        assert re.search(rf"^\| {re.escape(package)} \|.*\| {re.escape(text)} \|$", page, re.MULTILINE), package
    assert licences(read_tracks())["ufoai-music"] == "25 CC-BY-SA-3.0, 22 GPL-2, 13 CC-BY-3.0, 3 public-domain"
