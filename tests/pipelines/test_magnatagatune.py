"""MagnaTagATune: one corpus of either split, from whatever tables there are; what is missing; the download."""

import hashlib
import io
import zipfile

import pytest

from clmr_tf.data.corpus import Corpus
from clmr_tf.data.resolution import is_pipeline, resolve_corpus
from clmr_tf.errors import UsageError
from pipelines import magnatagatune, magnatagatune_clean
from pipelines.magnatagatune import BAD_CLIPS, TAGS
from pipelines.preparation.downloads import RemoteFile
from tests.pipelines.file_server import running_file_server
from tests.pipelines.magnatagatune_files import (
    CLIPS,
    COUNTS,
    EXPECTED,
    described,
    write_annotations,
    write_audio,
    write_numpy_files,
    write_split_files,
)
from tests.pipelines.published_data import SETTINGS, skipped_sources, write_lines

pytestmark = pytest.mark.usefixtures("no_workers")


@pytest.fixture
def data(tmp_path, monkeypatch):
    return write_audio(tmp_path / "data", monkeypatch)


def test_both_sources_of_the_papers_split_give_one_corpus(data, tmp_path):
    write_annotations(data)
    by_annotations = magnatagatune.prepare_corpus(tmp_path / "one", SETTINGS, data)
    assert by_annotations.manifest.name == "magnatagatune-pons2017"
    assert by_annotations.manifest.tag_names == TAGS
    assert by_annotations.manifest.num_items == COUNTS
    assert described(by_annotations) == EXPECTED
    assert by_annotations.items[0].source == "audio/0/ann-album-01-song-0-29.mp3"
    assert by_annotations.items[0].source_rate_hz == 16000
    (data / "annotations_final.csv").unlink()
    write_split_files(data)
    assert {clip.path: (clip.split, clip.tags) for clip in magnatagatune.read_clips(data)} == {
        path: fields[:2] for path, fields in EXPECTED.items()
    }


def test_both_sources_of_the_clean_split_give_one_corpus(data, tmp_path):
    write_annotations(data)
    by_annotations = magnatagatune_clean.prepare_corpus(tmp_path / "one", SETTINGS, data)
    assert by_annotations.manifest.name == "magnatagatune-clean"
    assert described(by_annotations) == {path: row for path, row in EXPECTED.items() if row[1]}
    (data / "annotations_final.csv").unlink()
    write_numpy_files(data)
    clips = [clip for clip in magnatagatune_clean.read_clips(data) if clip.path not in BAD_CLIPS]
    assert {clip.path: (clip.split, clip.tags) for clip in clips} == {
        path: row[:2] for path, row in EXPECTED.items() if row[1]
    }


def test_the_two_splits_never_share_a_folder(data, tmp_path):
    write_annotations(data)
    magnatagatune.prepare_corpus(tmp_path / "one", SETTINGS, data)
    with pytest.raises(UsageError, match="was prepared with corpus magnatagatune-pons2017, not magnatagatune-clean"):
        magnatagatune_clean.prepare_corpus(tmp_path / "one", SETTINGS, data)


def test_songs_come_from_clip_info_if_it_exists(data, tmp_path, caplog):
    write_annotations(data)
    rows = [f"{n}\t{n // 2}\thttp://album\t{path}" for n, path in enumerate(CLIPS)]
    write_lines(data / "clip_info_final.csv", "clip_id\ttrack_number\turl\tmp3_path", *rows, "9\t9\thttp://album\t")
    corpus = magnatagatune.prepare_corpus(tmp_path / "one", SETTINGS, data)
    songs = [item.song_id for item in corpus.items]
    # The last but one shares its page and number with a clip in another split, which that split may not feel.
    assert songs == [
        "http://album#0",
        "http://album#0",
        "http://album#1",
        "http://album#2 (valid)",
        "http://album#2 (test)",
        "http://album#3",
    ]
    assert "1 songs of the published split are in more than one of train, valid, test" in caplog.text
    write_lines(data / "clip_info_final.csv", "clip_id\ttrack_number\turl\tmp3_path", *rows[1:])
    with pytest.raises(UsageError, match=r"clip_info_final\.csv does not have the clip 0/ann-album-01-song-0-29\.mp3"):
        magnatagatune.prepare_corpus(tmp_path / "two", SETTINGS, data)


def test_missing_audio_is_listed_and_too_much_of_it_refused(data, tmp_path, caplog):
    write_annotations(data)
    gone = ["0/ann-album-01-song-30-59.mp3", "d/dan-album-03-piece-0-29.mp3"]
    for name in gone:
        (data / "audio" / name).unlink()
    corpus = magnatagatune.prepare_corpus(tmp_path / "one", SETTINGS, data)
    assert corpus.manifest.num_skipped == {"missing": 2}
    assert skipped_sources(tmp_path / "one") == {f"audio/{name}": "missing" for name in gone}
    assert "2 of the 6 audio files of magnatagatune-pons2017 are missing." in caplog.text
    options = ["--data", str(data), "--out", str(tmp_path / "two"), "--max-skipped-fraction", "0.3"]
    with pytest.raises(UsageError, match=r"2 of the 6 audio files .* are missing, such as .*song-30-59"):
        magnatagatune.main(options)
    assert not (tmp_path / "two").exists()


def test_download_joins_and_unpacks_the_three_parts(data, tmp_path, monkeypatch):
    write_annotations(data)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        for name in EXPECTED:
            opened.write(data / "audio" / name, name)
    whole = archive.getvalue()
    contents = {"mp3.zip.001": whole[:2000], "mp3.zip.002": whole[2000:4000], "mp3.zip.003": whole[4000:]}
    contents["annotations_final.csv"] = (data / "annotations_final.csv").read_bytes()
    with running_file_server() as server:
        server.files = contents
        remote = {
            name: RemoteFile(name, server.url(name), f"sha256:{hashlib.sha256(content).hexdigest()}")
            for name, content in contents.items()
        }
        monkeypatch.setattr(magnatagatune, "TABLES", [remote.pop("annotations_final.csv")])
        monkeypatch.setattr(magnatagatune, "PARTS", list(remote.values()))
        options = ["--data", str(tmp_path / "new"), "--out", str(tmp_path / "one"), "--min-num-samples", "11025"]
        magnatagatune.main([*options, "--download", "--num-workers", "1"])
        assert described(Corpus.open(tmp_path / "one")) == EXPECTED
        num_requests = len(server.ranges)
        # What is unpacked is not fetched again, parts removed or not.
        (tmp_path / "new/mp3.zip.001").unlink()
        magnatagatune.main([*options, "--download"])
        assert len(server.ranges) == num_requests == 4


def test_corpora_are_found_by_name(data, tmp_path, monkeypatch):
    write_annotations(data)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/magnatagatune").mkdir()
    for name in ("audio", "annotations_final.csv"):
        (data / name).rename(tmp_path / "data/magnatagatune" / name)
    options = {"corpora": tmp_path / "corpora", "sample_rate_hz": 16000, "clip_num_samples": 8000}
    corpus = resolve_corpus("magnatagatune", **options)
    assert corpus.folder == tmp_path / "corpora/magnatagatune-16000hz"
    assert described(corpus) == EXPECTED
    others = ("magnatagatune_clean", "msd", "gtzan", "fma", "mtg_jamendo", "billboard")
    assert all(is_pipeline(name) for name in others)
    helpers = ("preparation", "demo_data")
    assert not any(is_pipeline(name) for name in helpers)
