"""The tables of MagnaTagATune: those that are not the published ones are refused, and the published ones are read."""

import os
from pathlib import Path

import numpy as np
import pytest

from clmr_tf.errors import UsageError
from pipelines import magnatagatune, magnatagatune_clean
from pipelines.magnatagatune import BAD_CLIPS, TAGS, read_annotations, song_of_path
from tests.pipelines.magnatagatune_files import (
    BAD,
    CLIPS,
    write_annotations,
    write_audio,
    write_numpy_files,
    write_split_files,
)
from tests.pipelines.published_data import SETTINGS

# Published label files, for those who have them: index_mtt.tsv and val_gt_mtt.tsv.
LABELS = Path(os.environ.get("MAGNATAGATUNE_LABELS", Path(__file__).parents[2] / "data/magnatagatune"))


@pytest.fixture
def data(tmp_path, monkeypatch):
    return write_audio(tmp_path / "data", monkeypatch)


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
def test_unpublished_annotations_are_refused(data, tmp_path, change, sentence):
    clips = dict(CLIPS)
    change(clips)
    write_annotations(data, clips)
    with pytest.raises(UsageError, match=sentence):
        magnatagatune.prepare_corpus(tmp_path / "one", SETTINGS, data)


def test_wrong_tables_are_one_sentence(data, tmp_path):
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


@pytest.mark.parametrize("path", ["../etc/passwd.mp3", "/etc/x.mp3", "f/../../x.mp3", "g/x.mp3"])
def test_a_clip_is_in_one_of_the_sixteen_folders_whatever_the_table_says(path):
    with pytest.raises(UsageError, match="is in none of the folders 0 to f of MagnaTagATune; fetch the table again"):
        magnatagatune.LabelledClip(path, "train", ())


def test_wrong_numpy_files_are_one_sentence(data, tmp_path):
    write_numpy_files(data)
    np.save(data / "valid.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match=r"valid\.npy cannot be read without running its content"):
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


@pytest.mark.skipif(not (LABELS / "index_mtt.tsv").is_file(), reason="the published label files are not here")
def test_the_published_files():
    paths = magnatagatune.read_pairs(LABELS / "index_mtt.tsv")
    assert len(paths) == magnatagatune.NUM_LISTED_CLIPS
    assert {number: path for number, path in paths.items() if path in BAD_CLIPS}.keys() == {"35644", "55753", "57881"}
    good = [path for path in paths.values() if path not in BAD_CLIPS]
    counts = {split: sum(magnatagatune.split_of(path) == split for path in good) for split in magnatagatune.NUM_CLIPS}
    assert counts == magnatagatune.NUM_CLIPS == {"train": 18_706, "valid": 1_825, "test": 5_329}
    songs = {song_of_path(path) for path in paths.values()}
    # No song is in two folders, and so in two splits.
    assert len(songs) == len({song.partition("/")[2] for song in songs}) == 5_405
    # Artists are, though: docs/corpora.md says how many clips of the test that concerns.
    artists = {split: [] for split in magnatagatune.NUM_CLIPS}
    for path in good:
        artists[magnatagatune.split_of(path)].append(path.partition("/")[2].partition("-")[0])
    learnt_from = set(artists["train"])
    assert sum(artist in learnt_from for artist in artists["test"]) == 3_284
    valid = magnatagatune.read_split_files(LABELS / "index_mtt.tsv", {"valid": LABELS / "val_gt_mtt.tsv"})
    assert {clip.path for clip in valid} == {path for path in good if magnatagatune.split_of(path) == "valid"}
    # Another reader of these files counted 2.77 tags a clip, and no tag that has fewer than three.
    assert np.mean([len(clip.tags) for clip in valid]) == pytest.approx(2.77, abs=0.005)
    assert min(sum(tag in clip.tags for clip in valid) for tag in TAGS) == 3
    # The clean split is the same without clips that have no tag.
    assert sum(bool(clip.tags) for clip in valid) == magnatagatune_clean.NUM_CLIPS["valid"] == 1_529
