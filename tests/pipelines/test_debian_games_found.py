"""What another release of Debian has of the published list: packages renamed, gone, changed."""

import csv
import dataclasses
import hashlib
import json

import pytest

from clmr_tf.errors import UsageError
from pipelines.debian_games import Options, Track, prepare_corpus
from tests.pipelines.debian_files import build_package, install_apt_get, needs_dpkg_deb, song

pytestmark = needs_dpkg_deb
OPTIONS = Options(min_num_samples=22050, num_workers=1)
NUM_SONGS = 8


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("songs")
    return [song(folder, number) for number in range(NUM_SONGS + 1)]


@pytest.fixture
def table(tmp_path, songs):
    """The published list: four songs of a package with a version in its name, two each of two others."""
    places = [("c-1.16-music", f"usr/c/1.16/{number}.flac") for number in range(4)]
    places += [
        ("d-data", "usr/d/4.flac"),
        ("d-data", "usr/d/5.flac"),
        ("e-data", "usr/6.flac"),
        ("e-data", "usr/7.flac"),
    ]
    path = tmp_path / "table.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Track)])
        writer.writeheader()
        for number, (package, where) in enumerate(places):
            digest = hashlib.sha256(songs[number]).hexdigest()
            track = Track("small", package, where, "c", "", f"c/{number}", "GPL-2+", digest)
            writer.writerow(dataclasses.asdict(track))
    return path


@pytest.fixture
def release(tmp_path, songs, monkeypatch):
    """Makes a release of Debian: a folder of its packages, which an apt-get in PATH knows."""

    def make(name, version, d_songs, with_e):
        folder = tmp_path / name
        folder.mkdir()
        build_package(folder, f"c-{version}-music", {f"usr/c/{version}/{n}.flac": songs[n] for n in range(4)})
        build_package(folder, "d-data", {f"usr/d/{place}.flac": songs[n] for place, n in d_songs.items()})
        if with_e:
            build_package(folder, "e-data", {f"usr/{n}.flac": songs[n] for n in (6, 7)})
        install_apt_get(folder, monkeypatch)
        return folder

    return make


def skipped_of(corpus):
    lines = (corpus.folder / "skipped.jsonl").read_text().splitlines()
    return [(row["source"], row["reason"], row["detail"]) for row in map(json.loads, lines)]


def test_a_renamed_package_gives_the_same_corpus_to_the_bit(table, release, tmp_path, capsys):
    release("published", "1.16", {4: 4, 5: 5}, with_e=True)
    published = prepare_corpus(tmp_path / "1/corpus", OPTIONS, table)
    assert "warning" not in capsys.readouterr().err and skipped_of(published) == []
    folder = release("newer", "1.18", {4: 4, 5: 5}, with_e=True)
    # By the order of numbers, 1.18 is newer than 1.9; others are another kind of package.
    for name in ("c-1.9-music", "c-1.18-data", "cc-1.20-music", "c-music"):
        build_package(folder, name, {"usr/c/none": b""})
    newer = prepare_corpus(tmp_path / "2/corpus", OPTIONS, table)
    # Ids, songs, splits and audio, on which labels and results depend.
    assert newer.manifest.fingerprint == published.manifest.fingerprint
    sentence = (
        "8 of the 8 recordings of the published list were found: c-1.18-music 1:2.0-1 is used instead of c-1.16-music"
    )
    assert f"warning: {sentence}." in " ".join(capsys.readouterr().err.split())
    assert f"; {sentence}; licences" in newer.manifest.source["description"]


def test_missing_and_changed_recordings_are_listed_and_reported(table, release, tmp_path, capsys):
    release("newer", "1.16", {4: 8}, with_e=False)
    corpus = prepare_corpus(tmp_path / "corpus", OPTIONS, table)
    assert [item.id for item in corpus.items] == [
        *(f"c-1.16-music/usr/c/1.16/{n}.flac" for n in range(4)),
        "d-data/usr/d/4.flac",
    ]
    assert skipped_of(corpus) == [
        ("d-data/usr/d/5.flac", "not_in_package", "d-data 1:2.0-1 does not contain it"),
        ("e-data/usr/6.flac", "no_package", "this system has no package e-data"),
        ("e-data/usr/7.flac", "no_package", "this system has no package e-data"),
    ]
    assert corpus.manifest.num_skipped == {"not_in_package": 1, "no_package": 2}
    sentence = (
        "5 of the 8 recordings of the published list were found: there is no package e-data (2); recordings are not in "
        "d-data (1); recordings have changed in d-data (1)"
    )
    assert f"warning: {sentence}." in " ".join(capsys.readouterr().err.split())
    assert f"; {sentence}; licences" in corpus.manifest.source["description"]


def test_a_downloadable_package_is_preferred_to_an_installed_one(table, release, tmp_path):
    folder = release("upgraded", "1.18", {4: 4, 5: 5}, with_e=False)
    # As after an upgrade of the system: both are still there, and in no archive.
    (folder / "installed").write_text("c-1.16-music e-data")
    corpus = prepare_corpus(tmp_path / "corpus", OPTIONS, table)
    assert corpus.manifest.num_skipped == {"no_package": 2}
    assert "c-1.18-music 1:2.0-1 is used instead of c-1.16-music" in corpus.manifest.source["description"]


def test_too_few_recordings_are_refused(table, release, tmp_path):
    folder = release("newer", "1.16", {}, with_e=True)
    next(folder.glob("c-*.deb")).unlink()
    with pytest.raises(UsageError, match=r"Only 2 of the 8 recordings of the set small are .*apt-get update"):
        prepare_corpus(tmp_path / "corpus", OPTIONS, table)
    assert not (tmp_path / "corpus").exists()
    enough = dataclasses.replace(OPTIONS, max_skipped_fraction=0.75)
    assert len(prepare_corpus(tmp_path / "corpus", enough, table).items) == 2
