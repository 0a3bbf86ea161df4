"""A folder as a corpus: splits by names and by chance, tags, and what the library's caller is told."""

from pathlib import Path

import numpy as np
import pytest

from clmr_tf.errors import UsageError
from pipelines.folder import FolderSettings, prepare_corpus, sources_of
from tests.pipelines.published_data import SETTINGS, write_clip
from tests.sounds import noise, write_sound

pytestmark = pytest.mark.usefixtures("no_workers")


def splits_of(names, **settings):
    return {source.source: source.split for source in sources_of(Path(), names, FolderSettings(**settings))}


def test_a_corpus_may_be_inside_its_source_folder(tmp_path):
    for seed in range(2):
        write_clip(tmp_path / f"{seed}.flac", seed)
    first = prepare_corpus(tmp_path, tmp_path / "corpus", SETTINGS)
    again = prepare_corpus(tmp_path, tmp_path / "corpus", SETTINGS)
    assert len(first.items) == len(again.items) == 2


def test_the_library_function_prints_the_summary_once(tmp_path, capfd):
    for seed in range(2):
        write_clip(tmp_path / f"music/{seed}.flac", seed)
    (tmp_path / "music/page.mp3").write_text("<html>Not found</html>")
    prepare_corpus(tmp_path / "music", tmp_path / "corpus", SETTINGS)
    shown = capfd.readouterr()
    assert shown.err.splitlines()[-1] == (
        f"{tmp_path}/corpus: 2 items (1 train, 1 valid), 0.00 hours of audio; "
        "left out: 1 not_audio (see skipped.jsonl there); no audio: 1 .mp3."
    )
    assert shown.out == ""
    prepare_corpus(tmp_path / "music", tmp_path / "corpus", SETTINGS)
    assert capfd.readouterr() == ("", "")


def test_songs_are_drawn_for_the_splits_by_their_paths():
    names = [f"album/{number}.mp3" for number in range(40)]
    splits = splits_of(names, valid_fraction=0.25, test_fraction=0.05)
    assert [list(splits.values()).count(split) for split in ("train", "valid", "test")] == [28, 10, 2]
    assert splits == splits_of(names, valid_fraction=0.25, test_fraction=0.05)
    assert set(splits_of(names[:1]).values()) == {"train"}


def test_folders_called_train_valid_test_are_the_splits():
    names = ["test/z.mp3", "train/a.mp3", "train/jazz/b.mp3", "valid/c.mp3"]
    assert splits_of(names) == {name: name.split("/")[0] for name in names}
    assert splits_of(["Train/a.mp3", "Test/b.mp3"]) == {"Train/a.mp3": "train", "Test/b.mp3": "test"}
    tagged = sources_of(Path(), names, FolderSettings(tags="folder"))
    assert [source.tags for source in tagged] == [(), (), ("jazz",), ()]


@pytest.mark.parametrize(
    "names",
    [
        ["train/a.mp3", "valid/b.mp3", "rock/c.mp3"],
        ["train/a.mp3", "valid/b.mp3", "c.mp3"],
        ["train/a.mp3", "train/b.mp3"],
        ["valid/a.mp3", "test/b.mp3"],
    ],
)
def test_other_folders_are_not_splits(names):
    splits = splits_of(names, valid_fraction=0.5)
    assert list(splits.values()).count("valid") == round(len(names) / 2)
    assert splits != {name: name.split("/")[0] for name in names}


@pytest.mark.parametrize("wrong", [{"valid_fraction": -0.1}, {"valid_fraction": 0.6, "test_fraction": 0.4}])
def test_fractions_that_leave_nothing_to_train_on_are_refused(wrong):
    with pytest.raises(UsageError, match="leave songs to train on"):
        FolderSettings(**wrong)


def test_a_stereo_file_and_its_mono_mix_give_the_same_audio(tmp_path):
    left, right = noise(1.2, 44100, seed=1), noise(1.2, 44100, seed=2)
    (tmp_path / "music").mkdir()
    write_sound(tmp_path / "music/1.wav", np.stack([left, right], axis=1), 44100, "WAV", "FLOAT")
    write_sound(tmp_path / "music/2.wav", (left + right) / 2, 44100, "WAV", "FLOAT")
    corpus = prepare_corpus(tmp_path / "music", tmp_path / "corpus", SETTINGS)
    assert corpus.items[0].digest == corpus.items[1].digest
    assert np.array_equal(*(corpus.read_samples(item) for item in corpus.items))


def test_copies_of_a_recording_are_one_song_of_one_split(tmp_path, caplog):
    for seed in range(12):
        for place in ("a", "b/copy of ", "c/"):
            write_clip(tmp_path / f"music/{place}{seed}.flac", seed)
    corpus = prepare_corpus(tmp_path / "music", tmp_path / "corpus", SETTINGS, FolderSettings(valid_fraction=0.25))
    assert "24 of 36 files are copies of others; copies count as one song." in caplog.text
    assert corpus.manifest.num_songs == {"train": 9, "valid": 3}
    assert corpus.manifest.num_items == {"train": 27, "valid": 9}
    for split in ("train", "valid"):
        others = {item.digest for item in corpus.items if item.split != split}
        assert not others & {item.digest for item in corpus.items_of(split)}
    by_song = {}
    for item in corpus.items:
        by_song.setdefault(item.song_id, []).append(item)
    assert all(len(items) == 3 and len({item.digest for item in items}) == 1 for items in by_song.values())


def test_a_copy_in_another_split_is_kept_with_a_warning(tmp_path, caplog):
    for name in ("train/a", "train/b", "valid/a"):
        write_clip(tmp_path / f"music/{name}.flac", seed=ord(name[-1]))
    corpus = prepare_corpus(tmp_path / "music", tmp_path / "corpus", SETTINGS)
    assert "Recordings in more than one split: 1;" in caplog.text
    assert [item.split for item in corpus.items] == ["train", "train", "valid"]
    assert len({item.song_id for item in corpus.items}) == 3
