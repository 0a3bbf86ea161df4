"""Atomic writes, folder names that TensorFlow can read, and reading .npz files."""

import errno
import itertools
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.errors import UsageError
from clmr_tf.files import UnreadableArraysError, read_arrays, refuse_pattern, write_atomically

ROOT = Path(__file__).parents[2]
NUM_BYTES = 2_000_000

# Writes NUM_BYTES of "a", of "b", of "a" ... and reports when both have been written once.
WRITER = """
import itertools, sys
from pathlib import (Path)
from clmr_tf.files import (write_atomically)
path, num_bytes = Path(sys.argv[1]), int(sys.argv[2])
for number in itertools.count():
    write_atomically(path, b"ab"[number % 2 :][:1] * num_bytes)
    if number == 1:
        print("writing", flush=True)
"""

# A file size limit of 1000 bytes stands for a full disk.
LIMITED_WRITER = """
import resource, sys
from pathlib import (Path)
from clmr_tf.files import (write_atomically)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(Path(sys.argv[1]), b"new" * 1000)
except OSError as error:
    sys.exit(error.errno)
"""


def run(script: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["run.json", "ein Ständchen, op. 9 \N{MUSIC SHARP SIGN}.json", "-n", ".hidden"])
def test_new_content_replaces_old_content(tmp_path, name):
    path = tmp_path / name
    write_atomically(path, "one \N{MULTIPLICATION SIGN} two\n")
    assert path.read_bytes() == b"one \xc3\x97 two\n"
    write_atomically(path, b"\x00\xff\r\n")
    assert path.read_bytes() == b"\x00\xff\r\n"
    write_atomically(path, "")
    assert path.read_bytes() == b""
    assert names_in(tmp_path) == [name]


def test_open_reader_still_reads_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "old content")
    with path.open() as file:
        write_atomically(path, "new")
        assert file.read() == "old content"
    assert path.read_text() == "new"


def test_existing_folder_is_not_replaced_and_no_draft_is_left(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").write_text("kept")
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "taken", "new")
    assert names_in(tmp_path) == ["taken"]
    assert (tmp_path / "taken" / "inside").read_text() == "kept"


def test_missing_folder_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "file", "new")
    assert names_in(tmp_path) == []


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with run(LIMITED_WRITER, path) as process:
        assert process.wait() == errno.EFBIG
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("seed", range(4))
def test_kill_leaves_old_or_new_content_and_readers_never_see_a_part(tmp_path, seed):
    path = tmp_path / "file"
    with run(WRITER, path, NUM_BYTES) as process:
        try:
            assert process.stdout.readline() == b"writing\n"
            end = time.monotonic() + random.Random(seed).uniform(0.05, 0.15)
            seen = [path.read_bytes()]
            while time.monotonic() < end:
                seen.append(path.read_bytes())
            assert process.poll() is None
        finally:
            process.kill()
    seen.append(path.read_bytes())
    assert {(len(content), frozenset(content)) for content in seen} <= {
        (NUM_BYTES, frozenset(b"a")),
        (NUM_BYTES, frozenset(b"b")),
    }


@pytest.mark.parametrize("character", "*?[]\\")
def test_folder_with_glob_characters_is_rejected(tmp_path, character):
    with pytest.raises(UsageError, match=r"pattern; choose a folder without it\.$") as raised:
        refuse_pattern(tmp_path / f"take{character}1" / "run")
    assert f" interprets {character} as a pattern" in str(raised.value)


def test_tensorflow_finds_all_folder_names_that_are_accepted(tmp_path):
    characters = [chr(code) for code in itertools.chain(range(1, 127), [0xE9, 0x266F, 0x1F3B5]) if chr(code) != "/"]
    refused, lost = set(), set()
    for character in characters:
        # The character class [12] matches a 1, but not a bracket.
        folder = tmp_path / f"take{character}12]"
        folder = folder if character == "[" else tmp_path / f"take{character}12"
        folder.mkdir()
        (folder / "ckpt-1.index").touch()
        if [Path(name) for name in tf.io.gfile.glob(str(folder / "ckpt-*.index"))] != [folder / "ckpt-1.index"]:
            lost.add(character)
        try:
            refuse_pattern(folder)
        except UsageError:
            refused.add(character)
        (folder / "ckpt-1.index").unlink()
        folder.rmdir()
    assert "[" in lost and "\\" in lost
    assert lost <= refused
    assert refused == set("*?[]\\")


def test_arrays_are_read_as_written(tmp_path):
    written = {"audio": np.random.default_rng(0).uniform(-1, 1, (2, 30)), "names": np.array(["one", "zwölf"])}
    np.savez_compressed(tmp_path / "file.npz", **written)
    received = read_arrays(tmp_path / "file.npz")
    assert received.keys() == written.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(received[name], array)
    assert read_arrays(tmp_path / "file.npz", "audio").keys() == {"audio"}
    with pytest.raises(UnreadableArraysError, match=r"^it has no array `logits`$"):
        read_arrays(tmp_path / "file.npz", "audio", "logits")


def test_file_without_arrays_raises_unreadable_arrays_error(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "words").write_text("no arrays")
    np.save(tmp_path / "one.npy", np.ones(3))
    np.savez(tmp_path / "objects.npz", names=np.array([{"a": 1}], object))
    reasons = {"gone": "No such file or directory", "folder": "Is a directory"}
    for name in ("gone", "folder", "empty", "words", "one.npy", "objects.npz"):
        with pytest.raises(UnreadableArraysError) as error:
            read_arrays(tmp_path / name)
        assert str(error.value) == reasons.get(name, "it is damaged, or not an .npz file")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_arrays_raise_one_error_type_and_leave_no_file_open(tmp_path, save, recwarn):
    path, generator = tmp_path / "file.npz", np.random.default_rng(1)
    save(path, audio=generator.uniform(-1, 1, 50), rows=np.arange(20))
    whole, num_refused = path.read_bytes(), 0
    damaged = [whole[:length] for length in range(0, len(whole), 3)]
    for place in range(0, len(whole), 2):
        damaged.append(whole[:place] + bytes([generator.integers(256)]) + whole[place + 1 :])
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    for content in damaged:
        path.write_bytes(content)
        try:
            read_arrays(path)
        except UnreadableArraysError:
            num_refused += 1
    assert num_refused > len(damaged) / 2
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before and not recwarn.list
