"""The command `python -m pipelines.folder`: real collections, what it shows, and what it says of wrong ones."""

import io
import json
import os
import re

import pytest
from rich.console import Console

from clmr_tf import console
from clmr_tf.console import run_command
from clmr_tf.data.corpus import Corpus
from clmr_tf.errors import UsageError
from pipelines.folder import main
from tests.pipelines.published_data import write_clip
from tests.sounds import noise, write_encoded


def run(capfd, *arguments):
    """Exit code, standard output and standard error of the command."""
    exit_code = run_command(main, list(map(str, arguments)))
    return exit_code, *capfd.readouterr()


def test_the_command_prepares_a_real_collection(tmp_path, capfd):
    music = tmp_path / "Müsic"
    names = ["a/1.flac", "a/2 ♥.wav", "b/3\n.mp3", "b/c/4.ogg", "5.aiff"]
    for seed, name in enumerate(names):
        write_clip(music / name, seed)
    write_encoded(music / "a/6.m4a", noise(1.2, 44100, seed=6)[None], 44100, "aac", "ipod")
    write_clip(music / "odd.flac", 7)
    (music / "odd.flac").rename(music / os.fsdecode(b"\xff.flac"))
    (music / "cover.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (music / "page.mp3").write_text("<html>Not found</html>")
    (music / "cut.flac").write_bytes((music / "a/1.flac").read_bytes()[:5000])
    os.mkfifo(music / "pipe.wav")
    arguments = [music, "--out", tmp_path / "corpus", "--min-num-samples", 11025, "--tags", "folder"]
    exit_code, stdout, stderr = run(capfd, *arguments)
    assert exit_code == 0, stderr
    assert stdout == (
        f"{tmp_path}/corpus: 7 items (6 train, 1 valid), 0.00 hours of audio; "
        "left out: 3 not_audio, 1 unreadable (see skipped.jsonl there); "
        "no audio: 1 .jpg, 1 .mp3, 1 .wav.\n"
    )
    # No bar and no colours outside a terminal.
    assert "\x1b" not in stderr
    assert stderr.splitlines()[-1] == "Preparing Müsic: 9 of 9 files, 0.0 hours of audio, 2 left out"
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

    assert run(capfd, *arguments) == (0, stdout, "")


def test_a_terminal_sees_a_progress_bar(tmp_path, monkeypatch, no_workers):
    for seed in range(3):
        write_clip(tmp_path / f"music/{seed}.flac", seed)
    # On a dumb terminal, no bar is drawn.
    monkeypatch.setenv("TERM", "xterm")
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr(console, "stderr", terminal)
    main([str(tmp_path / "music"), "--out", str(tmp_path / "corpus"), "--min-num-samples", "11025"])
    shown = terminal.file.getvalue()
    assert "Preparing music" in shown and "0.0 hours of audio, 0 left out" in shown
    assert re.search(r"3/3", re.sub(r"\x1b\[[\d;]*m", "", shown))


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
        (_an_empty_folder, "contains no audio, no files at all"),
        (_texts, "contains no audio, only other files (2 not_audio)"),
        (_broken_audio, "1 of 1 audio files cannot be used (1 unreadable)"),
    ],
)
def test_a_wrong_source_is_one_sentence(tmp_path, capfd, no_workers, make, sentence):
    make(tmp_path / "music")
    exit_code, stdout, stderr = run(capfd, tmp_path / "music", "--out", tmp_path / "corpus")
    assert (exit_code, stdout) == (2, "")
    errors = [line for line in stderr.splitlines() if not line.startswith("Preparing")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert sentence in errors[0]
    assert not (tmp_path / "corpus/manifest.json").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--out", "/proc/corpus"], "cannot be written"),
        (["--out", "corpus", "--valid-fraction", "1.5"], "leave songs to train on"),
        (["--out", "corpus", "--num-workers", "0"], "num_workers cannot be 0"),
        (["--out", "corpus", "--tags", "folder"], "has no sub-folders"),
        (["--out", "corpus", "--valid-fractoin", "0.2"], "--valid-fraction"),
        ([], "--out"),
    ],
)
def test_wrong_options_are_named(tmp_path, capfd, arguments, sentence):
    write_clip(tmp_path / "song.flac", 1)
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
    # Without the breaks of its lines.
    shown = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert "[OPTIONS] MUSIC " in shown
    for option, default in [
        ("--out", None),
        ("--valid-fraction", "0.1"),
        ("--test-fraction", "0.0"),
        ("--tags", "none"),
        ("--sample-rate-hz", "22050"),
        ("--min-num-samples", "59049"),
        ("--timeout-seconds", "300.0"),
        ("--num-workers", "None"),
        ("--max-skipped-fraction", "0.5"),
        ("--reader", "prepared"),
    ]:
        assert option in shown
        assert default is None or f"(default: {default})" in shown
