"""What --corpus accepts: names, prepared folders, folders of music; and that changed audio is detected."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import pipelines
from clmr_tf.data import resolution
from clmr_tf.data.corpus import MANIFEST_FILE, Corpus
from clmr_tf.data.resolution import is_pipeline, require_unchanged_audio, resolve_corpus
from clmr_tf.errors import ClmrError, UsageError
from tests.synthetic import PCM_FILE, melody, save_corpus, synthetic_corpus

CLIP = 59049
PIPELINE = '''
"""Two songs of a corpus with a name."""

from pathlib import (Path)

from pipelines import (folder)


def prepare_corpus(destination, settings):
    return folder.prepare_corpus(Path({music!r}), destination, settings)
'''


def write_song(folder: Path, seed: int = 0, name: str = "song.wav") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / name, melody(seed, CLIP + 1000), 22050)
    return folder


def is_same(corpus: Corpus, other: Corpus) -> bool:
    return (corpus.folder, corpus.manifest) == (other.folder, other.manifest)


def resolve(corpus: str | Path, corpora: Path, **options) -> Corpus:
    return resolve_corpus(
        str(corpus), corpora=corpora, **{"sample_rate_hz": 22050, "clip_num_samples": CLIP, **options}
    )


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """What a second preparation would change: every file with its inode and time."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def test_a_prepared_folder_is_opened_in_place(tmp_path):
    prepared = synthetic_corpus(tmp_path / "prepared", num_songs={"train": 2}, num_samples=CLIP)
    before = state_of(tmp_path)
    assert is_same(resolve(prepared.folder, tmp_path / "corpora"), prepared)
    assert state_of(tmp_path) == before and not (tmp_path / "corpora").exists()


def test_a_tilde_is_expanded(tmp_path, monkeypatch):
    prepared = synthetic_corpus(tmp_path / "prepared", num_songs={"train": 1}, num_samples=CLIP)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/prepared", tmp_path / "corpora").folder == prepared.folder


def test_music_is_prepared_once(tmp_path, monkeypatch):
    music = write_song(tmp_path / "Music")
    corpora = tmp_path / "corpora"
    first = resolve(music, corpora)
    assert first.folder.parent == corpora and [item.source for item in first.items] == ["song.wav"]
    right = np.round(32768 * melody(0, CLIP + 1000)) / 32768
    np.testing.assert_allclose(first.read_samples(first.items[0]), right, atol=2 / 32768)
    before = state_of(corpora)
    monkeypatch.chdir(tmp_path)
    # The same folder under different names.
    for name in (str(music), "Music", "./Music/", str(tmp_path / "Music" / ".." / "Music")):
        assert is_same(resolve(name, corpora), first)
    assert state_of(corpora) == before
    # The prepared corpus can also be given by its own folder.
    assert is_same(resolve(first.folder, tmp_path / "other"), first)


def test_a_manifest_of_another_program_is_ignored(tmp_path):
    music = write_song(tmp_path / "player")
    (music / "manifest.json").write_text(json.dumps({"short_name": "player", "icons": []}))
    corpus = resolve(music, tmp_path / "corpora")
    assert corpus.folder.parent == tmp_path / "corpora" and len(corpus.items) == 1


@pytest.mark.soak
def test_folders_of_equal_or_unusual_names_have_separate_corpora(tmp_path):
    # Two equal names, two that differ in characters that names cannot have, two without a letter.
    places = ["a/album", "b/album", "live: 1999", "live? 1999", "…", "-"]
    opened = []
    for seed, place in enumerate(places):
        corpus = resolve(write_song(tmp_path / place, seed), tmp_path / "corpora")
        begin = corpus.read_samples(corpus.items[0])
        np.testing.assert_allclose(begin, melody(seed, CLIP + 1000), atol=2 / 32768)
        opened.append(corpus)
    folders = [corpus.folder.name for corpus in opened]
    assert len(set(folders)) == len(places)
    assert all(name.isascii() and not set(name) & set(" :?/.") and not name.startswith("-") for name in folders)
    assert [name.rpartition("-")[0] for name in folders] == ["album"] * 2 + ["live-1999"] * 2 + ["music"] * 2


@pytest.mark.soak
def test_other_rates_and_readers_have_separate_folders(tmp_path):
    music, corpora = write_song(tmp_path / "music"), tmp_path / "corpora"
    plain = resolve(music, corpora)
    slow = resolve(music, corpora, sample_rate_hz=8000, clip_num_samples=20736)
    direct = resolve(music, corpora, reader="direct")
    assert {path.name for path in corpora.iterdir()} == {
        plain.folder.name,
        f"{plain.folder.name}-8000hz",
        f"{plain.folder.name}-direct",
    }
    assert slow.manifest.sample_rate_hz == 8000
    assert slow.items[0].num_samples == pytest.approx((CLIP + 1000) * 8000 / 22050, abs=1)
    assert (direct.manifest.storage, plain.manifest.storage) == ("direct", "pcm")
    assert direct.items[0].file == str(music / "song.wav")
    before = state_of(corpora)
    assert resolve(music, corpora, reader="direct") == direct
    assert resolve(music, corpora, sample_rate_hz=8000, clip_num_samples=20736) == slow
    assert state_of(corpora) == before


def test_the_fraction_of_skipped_files_is_limited(tmp_path):
    music = write_song(tmp_path / "music")
    (music / "broken.wav").write_bytes(b"RIFF nothing of the kind")
    (music / "short.wav").write_bytes(b"RIFF nothing either")
    assert len(resolve(music, tmp_path / "corpora", max_skipped_fraction=0.7).items) == 1
    with pytest.raises(ClmrError, match="2 of 3 audio files cannot be used"):
        resolve(music, tmp_path / "others", max_skipped_fraction=0.6)


def test_recordings_shorter_than_a_clip_are_left_out(tmp_path):
    music = write_song(tmp_path / "music")
    soundfile.write(music / "short.wav", melody(1, CLIP - 1), 22050)
    assert [item.source for item in resolve(music, tmp_path / "corpora").items] == ["song.wav"]


@pytest.fixture
def tiny_pipeline(tmp_path, monkeypatch):
    """A pipeline "tiny_songs", found along with those of the project."""
    modules = tmp_path / "modules"
    modules.mkdir()
    music = write_song(tmp_path / "music of the pipeline")
    (modules / "tiny_songs.py").write_text(PIPELINE.format(music=str(music)))
    monkeypatch.setattr(pipelines, "__path__", [*pipelines.__path__, str(modules)])
    yield "tiny_songs"
    # Without this, later tests in this process would still find the module.
    sys.modules.pop("pipelines.tiny_songs", None)
    vars(pipelines).pop("tiny_songs", None)


def test_a_named_corpus_is_prepared_by_its_pipeline_once(tmp_path, tiny_pipeline):
    corpora = tmp_path / "corpora"
    first = resolve(tiny_pipeline, corpora)
    assert first.folder == corpora / "tiny_songs" and len(first.items) == 1
    before = state_of(corpora)
    assert is_same(resolve(tiny_pipeline, corpora), first) and state_of(corpora) == before
    slow = resolve(tiny_pipeline, corpora, sample_rate_hz=16000, clip_num_samples=43470)
    assert slow.folder == corpora / "tiny_songs-16000hz" and slow.manifest.sample_rate_hz == 16000


def test_a_prepared_folder_takes_precedence_over_a_name(tmp_path, tiny_pipeline, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    here = synthetic_corpus(Path(tiny_pipeline), num_songs={"train": 2}, num_samples=CLIP)
    assert resolve(tiny_pipeline, tmp_path / "corpora").manifest == here.manifest
    shutil.rmtree(here.folder)
    # A folder of music does not.
    write_song(Path(tiny_pipeline), seed=3)
    assert not caplog.records
    assert resolve(tiny_pipeline, tmp_path / "corpora").folder == tmp_path / "corpora" / "tiny_songs"
    # The warning says how to refer to the folder.
    (record,) = caplog.records
    assert record.levelname == "WARNING" and f"not as the folder {tmp_path / 'tiny_songs'}" in record.getMessage()
    (way,) = re.findall(r"give (\S+)\.$", record.getMessage())
    assert [item.source for item in resolve(way, tmp_path / "corpora").items] == ["song.wav"]
    assert resolve(way, tmp_path / "corpora").folder.name.startswith("tiny_songs-")


@pytest.mark.parametrize("kind", ["package", "folder", "module"])
def test_another_package_called_pipelines_is_rejected(tmp_path, monkeypatch, kind):
    music = write_song(tmp_path / "music")
    others = tmp_path / "others" / "pipelines"
    if kind == "module":
        others.parent.mkdir()
        others.with_suffix(".py").write_text("__path__ = []\n")
    else:
        others.mkdir(parents=True)
        (others / "demo.py").write_text("raise SystemExit('code of others')\n")
        if kind == "package":
            (others / "__init__.py").touch()
    for name in [name for name in sys.modules if name.split(".")[0] == "pipelines"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(others.parent))
    if kind == "folder":
        # Not a package, so Python finds ours.
        assert is_pipeline("demo") and len(resolve(music, tmp_path / "corpora").items) == 1
        return
    for corpus in ("demo", str(music)):
        with pytest.raises(UsageError, match=f"another package called `pipelines`, {tmp_path}.*; rename it"):
            resolve(corpus, tmp_path / "corpora")


@pytest.mark.parametrize(
    "name", ["folder", "prepare", "audio_listing", "Demo", "demo/", "pipelines.demo", "../demo", ""]
)
def test_names_are_those_of_pipelines_with_a_corpus(name):
    assert is_pipeline("demo") and not is_pipeline(name)


def test_an_incompatible_prepared_folder_is_rejected_with_a_remedy(tmp_path):
    folder = synthetic_corpus(tmp_path / "prepared", num_songs={"train": 3}, num_samples=CLIP).folder
    direct = synthetic_corpus(tmp_path / "direct", num_songs={"train": 1}, num_samples=CLIP)
    manifest = dataclasses.replace(direct.manifest, storage="direct")
    (direct.folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
    for options, sentence in (
        (
            {"sample_rate_hz": 16000, "clip_num_samples": 43470},
            "has 22050 Hz, but .* 16000 Hz; use --sample-rate-hz 22050",
        ),
        ({"reader": "direct"}, "was made for --reader prepared"),
        # The items are CLIP, CLIP + 1 and CLIP + 2 samples long.
        (
            {"clip_num_samples": CLIP + 2},
            f"has 2 items shorter than .* {CLIP + 2} samples; .*--min-num-samples {CLIP + 2}",
        ),
    ):
        with pytest.raises(UsageError, match=sentence) as refused:
            resolve(folder, tmp_path / "corpora", **options)
        assert str(folder) in str(refused.value)
    with pytest.raises(UsageError, match="was made for --reader direct"):
        resolve(direct.folder, tmp_path / "corpora")


def test_other_values_are_rejected_and_nothing_is_written(tmp_path):
    song = write_song(tmp_path / "music") / "song.wav"
    (tmp_path / "empty").mkdir()
    for corpus, sentence in (
        ("no_such_corpus", "There is no corpus named 'no_such_corpus' and no such folder; give --corpus a folder"),
        ("folder", "There is no corpus named 'folder'"),
        # The empty path would be the current folder.
        ("", "The name of the corpus is empty; give --corpus a name"),
        (tmp_path / "nowhere", "There is no corpus named '.*nowhere'"),
        (song, f"{song} is a file; give --corpus the folder that contains the music"),
        (tmp_path / "empty", "contains no audio"),
    ):
        with pytest.raises(UsageError, match=sentence):
            resolve(corpus, tmp_path / "corpora")
    assert not (tmp_path / "corpora").exists()


NUM_SAMPLES = 60_000


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    return synthetic_corpus(tmp_path / "songs", num_songs={"train": 6, "test": 2}, num_samples=NUM_SAMPLES)


def flip_a_bit(corpus: Corpus, item: int) -> None:
    pcm = np.memmap(corpus.folder / PCM_FILE, np.uint8, "r+")
    pcm[2 * (corpus.items[item].offset_samples + NUM_SAMPLES // 2)] ^= 1
    pcm.flush()


@pytest.mark.parametrize("item", range(8))
def test_any_flipped_bit_in_a_small_corpus_is_detected(corpus, item):
    require_unchanged_audio(corpus)
    flip_a_bit(corpus, item)
    words = f"The audio of {corpus.items[item].id} in .*songs has changed since it was prepared; prepare the music"
    with pytest.raises(UsageError, match=words):
        resolve_corpus(str(corpus.folder), corpora=corpus.folder, sample_rate_hz=22_050, clip_num_samples=59_049)


def test_a_large_corpus_is_checked_at_evenly_spaced_items(corpus, monkeypatch):
    # Three items.
    monkeypatch.setattr(resolution, "_CHECKED_NUM_BYTES", 3 * 2 * (NUM_SAMPLES + 8))
    flip_a_bit(corpus, 1)
    require_unchanged_audio(corpus)
    for item in (0, 4, 7):
        flip_a_bit(corpus, item)
        with pytest.raises(UsageError, match=f"The audio of {corpus.items[item].id} "):
            require_unchanged_audio(corpus)
        flip_a_bit(corpus, item)


def test_the_files_of_a_direct_corpus_are_checked(corpus, tmp_path):
    file = tmp_path / "song.ogg"
    file.write_bytes(os.urandom(1000))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    item = dataclasses.replace(corpus.items[0], file=str(file), digest=digest, source_num_bytes=1000)
    direct = save_corpus(tmp_path / "direct", [item], None)
    require_unchanged_audio(direct)
    file.write_bytes(os.urandom(1000))
    with pytest.raises(UsageError, match="has changed since it was prepared"):
        require_unchanged_audio(direct)
    file.unlink()
    with pytest.raises(UsageError, match="has changed since it was prepared"):
        require_unchanged_audio(direct)
