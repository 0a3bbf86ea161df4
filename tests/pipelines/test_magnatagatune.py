import csv
import hashlib
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from clmr_tf.corpus import Corpus
from clmr_tf.corpus_resolution import is_pipeline, resolve_corpus
from clmr_tf.errors import UsageError
from pipelines import magnatagatune, magnatagatune_clean, magnatagatune_download, magnatagatune_tables
from pipelines.downloads import RemoteFile
from pipelines.magnatagatune_tables import BAD_CLIPS, TAGS, read_annotations, song_of_path
from tests.pipelines.file_server import running_file_server
from tests.pipelines.published_data import SETTINGS, skipped_sources, write_clip, write_lines

# Published label files, for those who have them: index_mtt.tsv and val_gt_mtt.tsv.
LABELS = Path(os.environ.get("MAGNATAGATUNE_LABELS", Path(__file__).parents[2] / "data/magnatagatune"))
BAD = "6/norine_braun-now_and_zen-08-gently-117-146.mp3"
# From path to tags; "weird" and "other" are a rare and an unused tag.
CLIPS = {
    "0/ann-album-01-song-0-29.mp3": {"guitar", "weird"},
    "0/ann-album-01-song-30-59.mp3": {"guitar", "other"},
    "b/bob-album-01-song-0-29.mp3": set(),
    BAD: {"guitar"},
    "c/cem-album-02-tune-59-88.mp3": {"female voice", "choral"},
    "d/dan-album-03-piece-0-29.mp3": {"metal"},
    "f/fay-album-04-dance-0-29.mp3": {"slow", "no vocals"},
}
COUNTS = {"train": 3, "valid": 1, "test": 2}
CLEAN_COUNTS = {"train": 2, "valid": 1, "test": 2}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The folder of a data set with as many clips as stand above, without tables."""
    monkeypatch.setattr(magnatagatune_tables, "NUM_CLIPS", len(CLIPS))
    monkeypatch.setattr(magnatagatune, "NUM_CLIPS", COUNTS)
    monkeypatch.setattr(magnatagatune_clean, "NUM_CLIPS", CLEAN_COUNTS)
    for seed, name in enumerate(CLIPS):
        if name != BAD:
            write_clip(tmp_path / "data/audio" / name, seed)
    return tmp_path / "data"


def write_annotations(data, clips=CLIPS):
    # In an order of its own, as the published table has them.
    columns = [*sorted(TAGS), "other", *(f"tag {number}" for number in range(137))]
    with (data / "annotations_final.csv").open("w", newline="") as file:
        table = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL)
        table.writerow(["clip_id", *columns, "mp3_path"])
        # Enough of each of the 50 that they are the most frequent ones, in a clip that does not count otherwise.
        for number, (path, tags) in enumerate(clips.items()):
            values = [int(tag in tags or (path == BAD and tag in TAGS)) for tag in columns]
            table.writerow([4 * number + 2, *values, path])


def write_split_files(data):
    write_lines(data / "index_mtt.tsv", *(f"{number}\t{path}" for number, path in enumerate(CLIPS)))
    rows = {"train": [], "valid": [], "test": []}
    for number, (path, tags) in enumerate(CLIPS.items()):
        if path != BAD:
            vector = [1.0 if tag in tags else 0.0 for tag in TAGS]
            rows[magnatagatune_tables.split_of(path)].append(f"{number}\t{vector}")
    for split, lines in rows.items():
        write_lines(data / magnatagatune.LABELS[split], *lines)


def write_numpy_files(data, paths=None):
    tags = sorted(TAGS)
    paths = list(CLIPS) if paths is None else paths
    np.save(data / "tags.npy", np.array(tags))
    np.save(data / "binary.npy", np.array([[float(tag in CLIPS[path]) for tag in tags] for path in CLIPS]))
    rows = {"train": [], "valid": [], "test": []}
    for row, path in enumerate(paths):
        if CLIPS[path]:
            rows[magnatagatune_tables.split_of(path)].append(f"{row}\t{path}")
    for split, lines in rows.items():
        np.save(data / f"{split}.npy", np.array(lines))


def described(corpus):
    return {item.id: (item.split, item.tags, item.song_id) for item in corpus.items}


EXPECTED = {
    "0/ann-album-01-song-0-29.mp3": ("train", ("guitar", "weird"), "0/ann-album-01-song"),
    "0/ann-album-01-song-30-59.mp3": ("train", ("guitar",), "0/ann-album-01-song"),
    "b/bob-album-01-song-0-29.mp3": ("train", (), "b/bob-album-01-song"),
    "c/cem-album-02-tune-59-88.mp3": ("valid", ("female voice", "choral"), "c/cem-album-02-tune"),
    "d/dan-album-03-piece-0-29.mp3": ("test", ("metal",), "d/dan-album-03-piece"),
    "f/fay-album-04-dance-0-29.mp3": ("test", ("slow", "no vocals"), "f/fay-album-04-dance"),
}


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


def test_songs_come_from_the_album_pages_where_these_are_known(data, tmp_path, caplog):
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
    options = ["--data", str(data), "--out", str(tmp_path / "two"), "--max-skipped-share", "0.3"]
    with pytest.raises(UsageError, match=r"2 of the 6 audio files .* are missing, such as .*song-30-59"):
        magnatagatune.main(options)
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda clips: clips.pop(BAD), "has 6 clips instead of the published 7; fetch it again"),
        (
            lambda clips: clips.update({"g/x-0-29.mp3": clips.pop("f/fay-album-04-dance-0-29.mp3")}),
            "in none of the folders 0 to f",
        ),
        (
            lambda clips: clips.update({"e/x-0-29.mp3": clips.pop("c/cem-album-02-tune-59-88.mp3")}),
            "has 0 items in the split valid instead of the published 1",
        ),
        (
            lambda clips: clips.update({path: {*tags, "other"} for path, tags in clips.items()}),
            "has the tag 'other' more often than",
        ),
    ],
)
def test_other_annotations_than_the_published_are_refused(data, tmp_path, change, sentence):
    clips = dict(CLIPS)
    change(clips)
    write_annotations(data, clips)
    with pytest.raises(UsageError, match=sentence):
        magnatagatune.prepare_corpus(tmp_path / "one", SETTINGS, data)


def test_tables_that_are_something_else_are_one_sentence(data, tmp_path):
    with pytest.raises(
        UsageError, match=r"annotations_final\.csv is missing; `python -m pipelines\.magnatagatune --help`"
    ):
        magnatagatune.read_clips(data)
    write_annotations(data)
    table = data / "annotations_final.csv"
    text = table.read_text()
    table.write_text(text.replace('"choral"', '"chorale"'))
    with pytest.raises(UsageError, match="has no column 'choral'"):
        magnatagatune.read_clips(data)
    table.write_text(text.replace('\t"tag 136"', "", 1))
    with pytest.raises(UsageError, match="has 190 fields instead of 189 in row 2"):
        magnatagatune.read_clips(data)
    table.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot be read"):
        magnatagatune.read_clips(data)
    table.unlink()
    write_split_files(data)
    labels = data / "val_gt_mtt.tsv"
    good = labels.read_text()
    for wrong in ("__import__('os').mkdir('x')", "[1.0]", good.split("\t")[1].replace("1.0", "2.0", 1)):
        labels.write_text(f"4\t{wrong}\n".replace("\n\n", "\n"))
        with pytest.raises(UsageError, match="instead of a list of 50 zeros and ones"):
            magnatagatune.read_clips(data)
    labels.write_text(good.replace("4\t", "99\t", 1))
    with pytest.raises(UsageError, match="has the clip 99, which"):
        magnatagatune.read_clips(data)


def test_numpy_files_that_are_something_else_are_one_sentence(data, tmp_path):
    write_numpy_files(data)
    np.save(data / "valid.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match=r"valid\.npy cannot be read without running what it holds"):
        magnatagatune_clean.read_clips(data)
    np.save(data / "valid.npy", np.array(["7\tc/cem-album-02-tune-59-88.mp3"]))
    with pytest.raises(UsageError, match="instead of a row and a path"):
        magnatagatune_clean.read_clips(data)
    # Rows that were numbered otherwise.
    np.save(data / "valid.npy", np.array(["2\tc/cem-album-02-tune-59-88.mp3"]))
    with pytest.raises(UsageError, match="has no tag for c/cem"):
        magnatagatune_clean.read_clips(data)
    np.save(data / "tags.npy", np.array([*sorted(TAGS)[1:], "jazz"]))
    with pytest.raises(UsageError, match="does not hold the 50 tags"):
        magnatagatune_clean.read_clips(data)


def test_tags_of_one_frequency_stay_in_the_published_order(data):
    # Every tag once: no order by frequency is left, and the table's own is that of the alphabet.
    write_annotations(data, {path: {*TAGS} for path in CLIPS})
    assert all(clip.tags == TAGS for clip in read_annotations(data / "annotations_final.csv"))
    assert TAGS[:3] + TAGS[-4:] == ("guitar", "classical", "slow", "country", "metal", "female voice", "choral")


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
        monkeypatch.setattr(magnatagatune_download, "TABLES", [remote.pop("annotations_final.csv")])
        monkeypatch.setattr(magnatagatune_download, "PARTS", list(remote.values()))
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
    helpers = ("magnatagatune_tables", "magnatagatune_clips", "published", "downloads", "corpus_command", "tables")
    assert not any(is_pipeline(name) for name in helpers)


@pytest.mark.skipif(not (LABELS / "index_mtt.tsv").is_file(), reason="the published label files are not here")
def test_the_published_files():
    paths = magnatagatune_tables.read_pairs(LABELS / "index_mtt.tsv")
    assert len(paths) == magnatagatune_tables.NUM_CLIPS
    assert {number: path for number, path in paths.items() if path in BAD_CLIPS}.keys() == {"35644", "55753", "57881"}
    good = [path for path in paths.values() if path not in BAD_CLIPS]
    counts = {split: sum(magnatagatune_tables.split_of(path) == split for path in good) for split in COUNTS}
    assert counts == magnatagatune.NUM_CLIPS == {"train": 18_706, "valid": 1_825, "test": 5_329}
    songs = {song_of_path(path) for path in paths.values()}
    # No song is in two folders, and so in two splits.
    assert len(songs) == len({song.partition("/")[2] for song in songs}) == 5_405
    # Artists are, though: docs/corpora.md says how many clips of the test that concerns.
    artists = {split: [] for split in COUNTS}
    for path in good:
        artists[magnatagatune_tables.split_of(path)].append(path.partition("/")[2].partition("-")[0])
    learnt_from = set(artists["train"])
    assert sum(artist in learnt_from for artist in artists["test"]) == 3_284
    valid = magnatagatune_tables.read_split_files(LABELS / "index_mtt.tsv", {"valid": LABELS / "val_gt_mtt.tsv"})
    assert {clip.path for clip in valid} == {path for path in good if magnatagatune_tables.split_of(path) == "valid"}
    # Another reader of these files counted 2.77 tags a clip, and no tag that has fewer than three.
    assert np.mean([len(clip.tags) for clip in valid]) == pytest.approx(2.77, abs=0.005)
    assert min(sum(tag in clip.tags for clip in valid) for tag in TAGS) == 3
    # The clean split is the same without clips that have no tag.
    assert sum(bool(clip.tags) for clip in valid) == magnatagatune_clean.NUM_CLIPS["valid"] == 1_529
