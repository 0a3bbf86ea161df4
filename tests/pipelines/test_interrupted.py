"""Kills and full disks: the corpus is what it would have been without them."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.folder import PrepareSettings, prepare_corpus
from tests.sounds import noise, write_sound

ROOT = Path(__file__).parents[2]
SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
OPTIONS = ["--min-num-samples", "22050", "--num-workers", "1"]


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


def command(music, corpus):
    return [sys.executable, "-m", "pipelines.folder", str(music), "--out", str(corpus), *OPTIONS]


def bytes_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(music):
    """The bytes of a corpus whose preparation nobody disturbed."""
    subprocess.run(command(music, music.parent / "undisturbed"), cwd=ROOT, check=True, capture_output=True)
    return bytes_of(music.parent / "undisturbed")


def num_journalled(corpus):
    journal = corpus / "unfinished/journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def test_kills_at_random_moments_change_no_byte(music, undisturbed, tmp_path):
    generator = random.Random(20)
    corpus = tmp_path / "corpus"
    progress = [0]
    # A machine that holds this process up may let one of them finish; then there is nothing left to kill.
    while len(progress) <= 6 and not (corpus / "manifest.json").exists():
        with subprocess.Popen(command(music, corpus), cwd=ROOT, **SILENT) as process:
            # Wait until it works, however busy the machine is, then kill it some files later.
            goal = progress[-1] + generator.randrange(4)
            while process.poll() is None and num_journalled(corpus) <= goal:
                time.sleep(0.001)
            time.sleep(generator.random() * 0.03)
            # The workers are not asked: the next start may find them alive.
            process.send_signal(signal.SIGKILL)
        assert process.returncode in (0, -signal.SIGKILL)
        progress.append(num_journalled(corpus) or 31)
    assert progress == sorted(progress), "each start goes on where the last one was killed"
    subprocess.run(command(music, corpus), cwd=ROOT, check=True, capture_output=True)
    assert bytes_of(corpus) == undisturbed


def write_small_music(folder):
    folder.mkdir()
    for name, kind in [("0.flac", "FLAC"), ("1.flac", "FLAC"), ("2.wav", "WAV")]:
        write_sound(folder / name, noise(1.2, 44100, seed=int(name[0])), 44100, kind)
    (folder / "broken.wav").write_bytes(b"\0" * 100)
    return folder


def start_and_signal(sent, music, corpus, number):
    """Runs the command and signals when it is about to touch the corpus for the n-th time.

    Returns what became of it, and what it touched before.
    """
    module, *arguments = command(music, corpus)[2:]
    assert module == "pipelines.folder"
    log = corpus.parent / f"log of {corpus.name}"
    signalled = [sys.executable, "-m", "tests.pipelines.killed_command", sent.name, str(number), log, *arguments]
    finished = subprocess.run(signalled, cwd=ROOT, check=False, capture_output=True, text=True, start_new_session=True)
    return finished, log.read_text().splitlines()


def start_and_kill(music, corpus, number):
    """Returns what the command touched before the n-th time."""
    finished, steps = start_and_signal(signal.SIGKILL, music, corpus, number)
    assert finished.returncode == (-signal.SIGKILL if number else 0), finished.stderr
    return steps


def test_kills_between_any_two_steps_change_no_byte(tmp_path):
    small = write_small_music(tmp_path / "music")
    steps = start_and_kill(small, tmp_path / "undisturbed", 0)
    expected = bytes_of(tmp_path / "undisturbed")
    finishing = steps.index("os.rename /unfinished/.manifest.json.draft")
    for number in sorted({*range(1, len(steps), 4), finishing + 1, finishing + 2}):
        corpus = tmp_path / f"corpus-{number}"
        assert len(start_and_kill(small, corpus, number)) == number - 1
        assert (corpus / "manifest.json").exists() == (number > finishing + 1)
        prepare_corpus(small, corpus, PrepareSettings(min_num_samples=22050, num_workers=1))
        assert bytes_of(corpus) == expected, f"killed before: {steps[number - 1]}"


def test_a_changed_song_makes_an_interrupted_corpus_begin_again(tmp_path):
    small = write_small_music(tmp_path / "music")
    settings = PrepareSettings(min_num_samples=22050, num_workers=1)
    steps = start_and_kill(small, tmp_path / "undisturbed", 0)
    start_and_kill(small, tmp_path / "corpus", steps.index("os.rename /unfinished/.index.jsonl.draft"))
    assert num_journalled(tmp_path / "corpus") == 4
    num_bytes = (small / "2.wav").stat().st_size
    write_sound(small / "2.wav", noise(1.2, 44100, seed=77), 44100, "WAV")
    assert (small / "2.wav").stat().st_size == num_bytes
    corpus = prepare_corpus(small, tmp_path / "corpus", settings)
    new = prepare_corpus(small, tmp_path / "new", settings)
    assert corpus.manifest.fingerprint == new.manifest.fingerprint
    assert bytes_of(tmp_path / "corpus") == bytes_of(tmp_path / "new") != bytes_of(tmp_path / "undisturbed")


def test_ctrl_c_says_so_and_the_next_start_goes_on(music, undisturbed, tmp_path):
    corpus = tmp_path / "corpus"
    # Of its hundred steps the first twenty prepare the ground, and each file takes two.
    finished, _ = start_and_signal(signal.SIGINT, music, corpus, 40)
    assert finished.returncode == 130
    assert "Traceback" not in finished.stderr
    assert finished.stderr.splitlines()[-1] == "error: Interrupted."
    assert not (corpus / "manifest.json").exists()
    assert 3 <= num_journalled(corpus) < 31
    subprocess.run(command(music, corpus), cwd=ROOT, check=True, capture_output=True)
    assert bytes_of(corpus) == undisturbed


def assert_one_sentence(finished, sentence):
    assert finished.returncode == 1
    assert finished.stdout == ""
    errors = [line for line in finished.stderr.splitlines() if not line.startswith("Preparing")]
    assert len(errors) == 1
    assert sentence in errors[0]


# A disk of its own: a small file system in memory, in a mount namespace that ends with the shell.
FULL_DISK = """
mount -t tmpfs -o size=4m tmpfs "$1" || exit 99
"$2" -m pipelines.folder "$3" --out "$1/corpus" --min-num-samples 22050 --num-workers 1 > "$4/out" 2> "$4/err"
echo $? > "$4/exit_code"
ls "$1/corpus" > "$4/listing"
grep -c . "$1/corpus/unfinished/journal.jsonl" > "$4/num_journalled"
mount -o remount,size=64m "$1"
"$2" -m pipelines.folder "$3" --out "$1/corpus" --min-num-samples 22050 --num-workers 1 > /dev/null || exit 98
cp -r "$1/corpus" "$4/corpus"
"""


def test_a_full_disk_is_one_sentence_and_the_next_start_goes_on(music, undisturbed, tmp_path):
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("mounting is not permitted here; the limit on file sizes stands in below")
    (tmp_path / "disk").mkdir()
    (tmp_path / "result").mkdir()
    script = ["sh", "-c", FULL_DISK, "sh", tmp_path / "disk", sys.executable, music, tmp_path / "result"]
    finished = subprocess.run(["unshare", "-rm", *script], cwd=ROOT, check=False, capture_output=True)
    if finished.returncode == 99:
        pytest.skip("mounting is not permitted here; the limit on file sizes stands in below")
    assert finished.returncode == 0, finished.stderr
    read = {path.name: path.read_text() for path in (tmp_path / "result").iterdir() if path.is_file()}
    assert read["exit_code"] == "1\n"
    errors = [line for line in read["err"].splitlines() if not line.startswith("Preparing")]
    assert len(errors) == 1
    assert errors[0].startswith("error: The disk is full")
    assert "manifest.json" not in read["listing"]
    assert 1 <= int(read["num_journalled"]) < 31
    assert bytes_of(tmp_path / "result/corpus") == undisturbed


def test_a_file_that_may_not_grow_is_one_sentence_and_the_next_start_goes_on(music, undisturbed, tmp_path):
    # In blocks of 512 bytes: one song fits, three do not.
    limited = ["sh", "-c", 'ulimit -f 2000; exec "$@"', "sh", *command(music, tmp_path / "corpus")]
    finished = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    errors = [line for line in finished.stderr.splitlines() if not line.startswith("Preparing")]
    assert errors == ["error: File too large."]
    assert not (tmp_path / "corpus/manifest.json").exists()
    assert 1 <= num_journalled(tmp_path / "corpus") < 31
    subprocess.run(command(music, tmp_path / "corpus"), cwd=ROOT, check=True, capture_output=True)
    assert bytes_of(tmp_path / "corpus") == undisturbed
