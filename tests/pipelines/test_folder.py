import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clmr_tf.corpus import Corpus
from clmr_tf.errors import UsageError
from pipelines.folder import FolderSettings, PrepareSettings, main, prepare_corpus, sources_of
from tests.sounds import noise, write_encoded, write_sound

ROOT = Path(__file__).parents[2]
SETTINGS = PrepareSettings(min_num_samples=22050, num_workers=2)


KINDS = {".flac": "FLAC", ".wav": "WAV", ".mp3": "MP3", ".ogg": "OGG", ".aiff": "AIFF"}


def write_song(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sound(path, noise(1.2, 44100, seed=seed), 44100, KINDS[path.suffix])


def run_command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "pipelines.folder", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def splits_of(names, **settings):
    return {source.source: source.split for source in sources_of(Path(), names, FolderSettings(**settings))}


def test_the_command_prepares_a_real_collection(tmp_path):
    music = tmp_path / "Müsic"
    names = ["a/1.flac", "a/2 ♥.wav", "b/3\n.mp3", "b/c/4.ogg", "5.aiff"]
    for seed, name in enumerate(names):
        write_song(music / name, seed)
    write_encoded(music / "a/6.m4a", noise(1.2, 44100, seed=6)[None], 44100, "aac", "ipod")
    write_song(music / "odd.flac", 7)
    (music / "odd.flac").rename(music / os.fsdecode(b"\xff.flac"))
    (music / "cover.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (music / "page.mp3").write_text("<html>Not found</html>")
    (music / "cut.flac").write_bytes((music / "a/1.flac").read_bytes()[:5000])
    os.mkfifo(music / "pipe.wav")
    finished = run_command(music, "--out", tmp_path / "corpus", "--min-num-samples", 22050, "--tags", "folder")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == (
        f"{tmp_path}/corpus: 7 items (6 train, 1 valid), 0.00 hours of audio; "
        "left out: 3 not_audio, 1 unreadable (see skipped.jsonl there).\n"
    )
    # No bar and no colours where nobody looks.
    assert "\x1b" not in finished.stderr
    assert finished.stderr.splitlines()[-1] == "Preparing Müsic: 9 of 9 files, 0.0 hours of audio, 2 left out"
    corpus = Corpus.open(tmp_path / "corpus")
    assert corpus.manifest.name == "Müsic"
    assert corpus.manifest.tag_names == ("a", "b")
    assert {item.source: item.tags for item in corpus.items} == {
        "5.aiff": (),
        "a/1.flac": ("a",),
        "a/2 ♥.wav": ("a",),
        "a/6.m4a": ("a",),
        "b/3\n.mp3": ("b",),
        "b/c/4.ogg": ("b",),
        "\udcff.flac": (),
    }
    # Every name but the source can be printed and encoded anywhere.
    assert all((item.id + item.song_id).encode("utf-8") for item in corpus.items)
    skipped = [json.loads(line) for line in (tmp_path / "corpus/skipped.jsonl").read_text().splitlines()]
    assert {row["source"]: row["reason"] for row in skipped} == {
        "cover.jpg": "not_audio",
        "cut.flac": "unreadable",
        "page.mp3": "not_audio",
        "pipe.wav": "not_audio",
    }

    again = run_command(music, "--out", tmp_path / "corpus", "--min-num-samples", 22050, "--tags", "folder")
    assert (again.returncode, again.stdout, again.stderr) == (0, finished.stdout, "")


def test_a_terminal_sees_a_progress_bar(tmp_path):
    import pty

    for seed in range(3):
        write_song(tmp_path / f"music/{seed}.flac", seed)
    ours, theirs = pty.openpty()
    arguments = [tmp_path / "music", "--out", tmp_path / "corpus", "--min-num-samples", "22050"]
    with subprocess.Popen(
        [sys.executable, "-m", "pipelines.folder", *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:
            # How a terminal says that its last user has gone.
            pass
        os.close(ours)
    assert process.returncode == 0
    text = shown.decode()
    assert "Preparing music" in text
    assert "3/3" in text
    assert "0.0 hours of audio, 0 left out" in text


def test_a_corpus_may_grow_inside_its_source(tmp_path):
    for seed in range(2):
        write_song(tmp_path / f"{seed}.flac", seed)
    first = prepare_corpus(tmp_path, tmp_path / "corpus", SETTINGS)
    again = prepare_corpus(tmp_path, tmp_path / "corpus", SETTINGS)
    assert len(first.items) == len(again.items) == 2


def test_who_prepares_through_the_library_is_told_once_what_was_left_out(tmp_path, capfd):
    for seed in range(2):
        write_song(tmp_path / f"music/{seed}.flac", seed)
    (tmp_path / "music/page.mp3").write_text("<html>Not found</html>")
    prepare_corpus(tmp_path / "music", tmp_path / "corpus", SETTINGS)
    shown = capfd.readouterr()
    assert shown.err.splitlines()[-1] == (
        f"{tmp_path}/corpus: 2 items (1 train, 1 valid), 0.00 hours of audio; "
        "left out: 1 not_audio (see skipped.jsonl there)."
    )
    assert shown.out == ""
    prepare_corpus(tmp_path / "music", tmp_path / "corpus", SETTINGS)
    assert capfd.readouterr() == ("", "")


def test_songs_are_drawn_for_the_splits_by_their_paths():
    names = [f"album/{number}.mp3" for number in range(40)]
    splits = splits_of(names, valid_share=0.25, test_share=0.05)
    assert [list(splits.values()).count(split) for split in ("train", "valid", "test")] == [28, 10, 2]
    assert splits == splits_of(names, valid_share=0.25, test_share=0.05)
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
def test_other_folders_are_no_splits(names):
    splits = splits_of(names, valid_share=0.5)
    assert list(splits.values()).count("valid") == round(len(names) / 2)
    assert splits != {name: name.split("/")[0] for name in names}


@pytest.mark.parametrize("wrong", [{"valid_share": -0.1}, {"valid_share": 0.6, "test_share": 0.4}])
def test_shares_that_leave_nothing_to_train_on_are_refused(wrong):
    with pytest.raises(UsageError, match="leave songs to train on"):
        FolderSettings(**wrong)


def _no_folder(path):
    pass


def _a_file(path):
    path.write_text("music")


def _an_empty_folder(path):
    path.mkdir()


def _texts(path):
    path.mkdir()
    (path / "a.txt").write_text("a")
    (path / ".hidden.mp3").write_text("b")


def _broken_audio(path):
    path.mkdir()
    (path / "a.mp3").write_bytes(b"\0" * 1000)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (_no_folder, "does not exist"),
        (_a_file, "is a file"),
        (_an_empty_folder, "holds no audio, nothing"),
        (_texts, "holds no audio, only other files (2 not_audio)"),
        (_broken_audio, "1 of 1 audio files cannot be used (1 unreadable)"),
    ],
)
def test_a_wrong_source_is_one_sentence(tmp_path, make, sentence):
    make(tmp_path / "music")
    finished = run_command(tmp_path / "music", "--out", tmp_path / "corpus")
    assert finished.returncode == 2
    assert finished.stdout == ""
    errors = [line for line in finished.stderr.splitlines() if not line.startswith("Preparing")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert sentence in errors[0]
    assert not (tmp_path / "corpus/manifest.json").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--out", "/proc/corpus"], "cannot be written"),
        (["--out", "corpus", "--valid-share", "1.5"], "leave songs to train on"),
        (["--out", "corpus", "--num-workers", "0"], "num_workers cannot be 0"),
        (["--out", "corpus", "--tags", "folder"], "has no sub-folders"),
        (["--out", "corpus", "--valid-shore", "0.2"], "--valid-share"),
        ([], "--out"),
    ],
)
def test_wrong_options_are_named(tmp_path, capfd, arguments, sentence):
    write_song(tmp_path / "song.flac", 1)
    arguments = [str(tmp_path / argument) if argument == "corpus" else argument for argument in arguments]
    with pytest.raises((UsageError, SystemExit)) as caught:
        main([str(tmp_path), *arguments])
    assert sentence in str(caught.value) + capfd.readouterr().err
    assert (caught.value.exit_code if isinstance(caught.value, UsageError) else caught.value.code) == 2
    assert not (tmp_path / "corpus").exists()


def test_help_names_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for option, default in [
        ("--out", None),
        ("--valid-share", "0.1"),
        ("--test-share", "0.0"),
        ("--tags", "none"),
        ("--sample-rate-hz", "22050"),
        ("--min-num-samples", "59049"),
        ("--timeout-seconds", "300.0"),
        ("--num-workers", "None"),
        ("--max-skipped-share", "0.5"),
        ("--reader", "pcm"),
    ]:
        assert option in shown
        assert default is None or f"(default: {default})" in shown


def test_a_stereo_file_and_its_mono_mix_give_the_same_audio(tmp_path):
    left, right = noise(1.2, 44100, seed=1), noise(1.2, 44100, seed=2)
    (tmp_path / "music").mkdir()
    write_sound(tmp_path / "music/1.wav", np.stack([left, right], axis=1), 44100, "WAV", "FLOAT")
    write_sound(tmp_path / "music/2.wav", (left + right) / 2, 44100, "WAV", "FLOAT")
    corpus = prepare_corpus(tmp_path / "music", tmp_path / "corpus", SETTINGS)
    assert corpus.items[0].digest == corpus.items[1].digest
    assert np.array_equal(*(corpus.read_samples(item) for item in corpus.items))
