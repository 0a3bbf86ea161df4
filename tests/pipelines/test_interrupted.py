"""Kills and full disks: the corpus is what it would have been without them."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clmr_tf.console import run_command
from pipelines import merge
from pipelines.folder import PrepareSettings, main, prepare_corpus
from pipelines.preparation.journal import GrowingAudio
from tests.sounds import noise, write_sound

ROOT = Path(__file__).parents[2]
OPTIONS = ["--min-num-samples", "22050", "--num-workers", "1"]
SETTINGS = PrepareSettings(min_num_samples=22050, num_workers=1)


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept") / "music"
    folder.mkdir()
    for number in range(30):
        kind = ("OGG", "MP3", "FLAC")[number % 3]
        write_sound(folder / f"{number:02d}.{kind.lower()}", noise(8.0, 44100, seed=number), 44100, kind)
    (folder / "05.broken.wav").write_bytes(b"\0" * 100)
    (folder / "readme.txt").write_text("not audio")
    return folder


def start(music, corpus, *arguments, **options):
    command = [sys.executable, "-m", "pipelines.folder", str(music), "--out", str(corpus), *OPTIONS, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, **options)


def bytes_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(music):
    """The bytes of a corpus whose preparation was not interrupted."""
    prepare_corpus(music, music.parent / "undisturbed", SETTINGS)
    return bytes_of(music.parent / "undisturbed")


def num_journalled(corpus, shard="00000-of-00001"):
    journal = corpus / "shards" / shard / "unfinished/journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def test_kills_at_random_moments_change_no_byte(music, undisturbed, tmp_path):
    generator = random.Random(20)
    corpus = tmp_path / "corpus"
    progress = [0]
    # On a busy machine one of them may finish before it is killed.
    while len(progress) <= 3 and not (corpus / "manifest.json").exists():
        with start(music, corpus, stderr=subprocess.DEVNULL) as process:
            goal = progress[-1] + generator.randrange(4)
            while process.poll() is None and num_journalled(corpus) <= goal:
                time.sleep(0.001)
            time.sleep(generator.random() * 0.03)
            # Its workers may still be alive when the next process starts.
            process.kill()
        assert process.returncode in (0, -signal.SIGKILL)
        progress.append(num_journalled(corpus) or 31)
    assert progress == sorted(progress), "each start continues where the last one was killed"
    prepare_corpus(music, corpus, SETTINGS)
    assert bytes_of(corpus) == undisturbed


def test_shards_at_once_one_of_them_killed_make_the_same_corpus(music, undisturbed, tmp_path, capsys):
    corpus = tmp_path / "corpus"
    with (
        start(music, corpus, "--shard", "2/3", stderr=subprocess.DEVNULL) as killed,
        start(music, corpus, "--shard", "0/3", stderr=subprocess.DEVNULL) as other,
    ):
        while killed.poll() is None and num_journalled(corpus, "00002-of-00003") < 2:
            time.sleep(0.001)
        killed.kill()
    assert (killed.returncode, other.returncode) == (-signal.SIGKILL, 0)
    assert 2 <= num_journalled(corpus, "00002-of-00003") < 10
    for shard in (1, 2):
        main([str(music), "--out", str(corpus), *OPTIONS, "--shard", f"{shard}/3"])
    merge.main([str(corpus)])
    merged = bytes_of(corpus)
    for name in ("index.parquet", "skipped.jsonl"):
        assert merged[name] == undisturbed[name]
    audio = [merged[f"shards/{number:05d}-of-00003/audio-00000.pcm"] for number in range(3)]
    assert b"".join(audio) == undisturbed["shards/00000-of-00001/audio-00000.pcm"]


def test_kills_before_every_file_access_change_no_byte(tmp_path, no_workers):
    small, work = tmp_path / "music", tmp_path / "work"
    small.mkdir()
    work.mkdir()
    for name, kind in [("0.flac", "FLAC"), ("1.flac", "FLAC"), ("2.wav", "WAV")]:
        write_sound(small / name, noise(1.2, 44100, seed=int(name[0])), 44100, kind)
    (small / "broken.wav").write_bytes(b"\0" * 100)
    script = [sys.executable, "-m", "tests.pipelines.killed_command", "prepare", small, work]
    steps = subprocess.run(script, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    expected = bytes_of(work / "0")
    finishing = steps.index("os.rename /unfinished/.manifest.json.draft") + 1
    before_index = work / str(steps.index("os.rename /shards/00000-of-00001/unfinished/.index.parquet.draft") + 1)
    assert num_journalled(before_index) == 4
    shutil.copytree(before_index, tmp_path / "changed")
    for number in range(1, len(steps) + 2):
        corpus = work / str(number)
        assert (corpus / "manifest.json").exists() == (number > finishing), steps[number - 1]
        prepare_corpus(small, corpus, SETTINGS)
        assert bytes_of(corpus) == expected, f"killed before: {steps[number - 1]}"

    # A song that has changed since makes an interrupted preparation start again.
    num_bytes = (small / "2.wav").stat().st_size
    write_sound(small / "2.wav", noise(1.2, 44100, seed=77), 44100, "WAV")
    assert (small / "2.wav").stat().st_size == num_bytes
    prepare_corpus(small, tmp_path / "changed", SETTINGS)
    prepare_corpus(small, tmp_path / "new", SETTINGS)
    assert bytes_of(tmp_path / "changed") == bytes_of(tmp_path / "new") != expected


def test_ctrl_c_says_so_and_the_next_start_continues(music, undisturbed, tmp_path):
    corpus = tmp_path / "corpus"
    with start(music, corpus, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while process.poll() is None and num_journalled(corpus) < 3:
            time.sleep(0.001)
        # A terminal sends Ctrl-C to the whole group.
        os.killpg(process.pid, signal.SIGINT)
        stderr = process.communicate()[1]
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == "error: Interrupted."
    assert not (corpus / "manifest.json").exists()
    assert 3 <= num_journalled(corpus) < 31
    prepare_corpus(music, corpus, SETTINGS)
    assert bytes_of(corpus) == undisturbed


# A disk of its own: a small file system in memory, in a mount namespace that ends with the shell.
FULL_DISK = """
mount -t tmpfs -o size=4m tmpfs "$1" || exit 99
"$2" -m pipelines.folder "$3" --out "$1/corpus" --min-num-samples 22050 --num-workers 1 > "$4/out" 2> "$4/err"
echo $? > "$4/exit_code"
cp -r "$1/corpus" "$4/corpus"
"""


def test_a_full_disk_is_one_sentence_and_the_next_start_continues(music, undisturbed, tmp_path):
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("mounting is not permitted here; an error that is raised stands in below")
    (tmp_path / "disk").mkdir()
    result = tmp_path / "result"
    result.mkdir()
    script = ["sh", "-c", FULL_DISK, "sh", tmp_path / "disk", sys.executable, music, result]
    finished = subprocess.run(["unshare", "-rm", *script], cwd=ROOT, check=False, capture_output=True)
    if finished.returncode == 99:
        pytest.skip("mounting is not permitted here; an error that is raised stands in below")
    assert finished.returncode == 0, finished.stderr
    assert (result / "exit_code").read_text() == "1\n"
    errors = [line for line in (result / "err").read_text().splitlines() if not line.startswith("Preparing")]
    assert len(errors) == 1
    assert errors[0].startswith("error: The disk is full")
    assert not (result / "corpus/manifest.json").exists()
    assert 1 <= num_journalled(result / "corpus") < 31
    prepare_corpus(music, result / "corpus", SETTINGS)
    assert bytes_of(result / "corpus") == undisturbed


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "The disk is full; free some space"), (errno.EFBIG, "File too large.")]
)
def test_audio_that_cannot_be_written_is_one_sentence(
    music, undisturbed, tmp_path, monkeypatch, capfd, no_workers, number, message
):
    append, num_calls = GrowingAudio.append, 0

    def append_two(audio, part):
        nonlocal num_calls
        num_calls += 1
        if num_calls == 3:
            # Half of it was written.
            audio._file.write(part.read_bytes()[:1001])
            raise OSError(number, os.strerror(number))
        append(audio, part)

    monkeypatch.setattr(GrowingAudio, "append", append_two)
    assert run_command(main, [str(music), "--out", str(tmp_path / "corpus"), *OPTIONS]) == 1
    errors = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("Preparing")]
    assert len(errors) == 1 and errors[0].startswith(f"error: {message}")
    assert not (tmp_path / "corpus/manifest.json").exists()
    assert num_journalled(tmp_path / "corpus") == 2
    monkeypatch.undo()
    prepare_corpus(music, tmp_path / "corpus", SETTINGS)
    assert bytes_of(tmp_path / "corpus") == undisturbed
