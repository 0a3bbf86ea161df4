"""Tables of embeddings in shards: the same bytes however they came about, and nothing half published."""

import dataclasses
import fcntl
import json
import os
import resource
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import soundfile
from pyarrow import parquet

from clmr_tf import embed
from clmr_tf.audio.listing import find_audio
from clmr_tf.config.command_line import INCLUDED_MODEL
from clmr_tf.config.shards import Shard
from clmr_tf.console import run_command
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.inference import embeddings, shards
from clmr_tf.inference.shards import (
    embed_shard,
    embed_table,
    list_files,
    merge_shards,
    plan_update,
    shard_of,
    update_table,
)
from clmr_tf.inference.tables import SongTable, read_manifest
from tests.clmr_tf.inference.plain_encoder import CLIP, RATE_HZ, DecoderInThisProcess, PlainEncoder, write_song

NUM_SONGS = 9


@pytest.fixture(autouse=True)
def decoder(monkeypatch):
    monkeypatch.setattr(shards, "IsolatedDecoder", DecoderInThisProcess)


@pytest.fixture
def music(tmp_path):
    """Nine songs of different lengths and a file that cannot be decoded."""
    folder = tmp_path / "music"
    folder.mkdir()
    for number in range(NUM_SONGS):
        write_song(folder / f"song {number}.wav", number, 0.5 + number)
    (folder / "song 4 bad.mp3").write_text("These are words and not music. " * 40)
    return folder


def listed(music):
    return list_files(*find_audio([music]))


def embedded(music, table, num_shards=1, encoder=None, **options):
    """Embeds shards from the last to the first, and merges them."""
    options = {"files_per_part": 2, **options}
    for number in reversed(range(num_shards)):
        task = shard_of(table, listed(music), Shard(number, num_shards), **options)
        embed_shard(encoder or PlainEncoder(), task)
    return merge_shards(table)


def content(table) -> dict[str, bytes]:
    """All files, except the record of what each shard did."""
    files = [path for path in table.rglob("*") if path.is_file() and path.parent.name != "shards"]
    return {str(path.relative_to(table)): path.read_bytes() for path in files}


def rows(table, folder="songs", columns=None) -> dict[str, list]:
    """The rows of all parts, in the order of the manifest."""
    paths = [table / folder / f"{part.name}.parquet" for part in read_manifest(table).parts]
    return pyarrow.concat_tables(parquet.read_table(path).replace_schema_metadata() for path in paths).to_pydict()


def test_a_table_has_the_same_bytes_for_every_number_of_shards(music, tmp_path):
    tables = {}
    for num_shards in (1, 3, 16):
        embedded(music, tmp_path / str(num_shards), num_shards)
        tables[num_shards] = content(tmp_path / str(num_shards))
    assert tables[1] == tables[3] == tables[16]
    # Five parts of two files, each with songs and windows, and the manifest.
    assert len(tables[1]) == 11
    embed_table(PlainEncoder(), shard_of(tmp_path / "at once", listed(music), Shard(), files_per_part=2))
    assert content(tmp_path / "at once") == tables[1]

    songs, windows = rows(tmp_path / "3"), rows(tmp_path / "3", "windows")
    files = sorted(music.glob("*.wav"))
    assert songs["path"] == list(map(str, files)) and songs["num_bytes"] == [file.stat().st_size for file in files]
    assert songs["num_windows"] == [1, 1, 2, 3, 4, 5, 6, 7, 8] and songs["is_padded"] == [True] + [False] * 8
    audio = [soundfile.read(file, dtype="float32")[0] for file in files]
    expected = [
        np.pad(one, (0, CLIP))[start : start + CLIP].reshape(512, 10).mean(axis=1)
        for one, count in zip(audio, songs["num_windows"], strict=True)
        for start in range(0, count * CLIP, CLIP)
    ]
    np.testing.assert_allclose(windows["embedding"], expected, atol=1e-6)
    np.testing.assert_allclose(songs["embedding"][3], np.mean(expected[4:7], axis=0), atol=1e-6)
    np.testing.assert_allclose(windows["time_seconds"][4:7], np.arange(3) * CLIP / RATE_HZ)


def test_a_summary_says_what_a_shard_did_and_repeating_a_shard_does_nothing(music, tmp_path):
    task = shard_of(tmp_path / "table", listed(music), Shard(1, 2), files_per_part=2)
    encoder = PlainEncoder()
    summary = embed_shard(encoder, task)
    file = tmp_path / "table" / "shards" / "00001-of-00002.json"
    before = file.read_bytes()
    plain = json.loads(before)
    # Songs 3 and 4, the bad file, songs 5 to 8.
    assert (plain["num_files"], plain["num_songs"], plain["num_windows"]) == (6, 5, 4 + 5 + 6 + 7 + 8)
    (skipped,) = [one for part in plain["parts"] for one in part["skipped"]]
    assert skipped["source"].endswith("song 4 bad.mp3") and "text" in skipped["detail"]
    assert plain["wall_seconds"] > 0 and plain["cpu_seconds"] > 0
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    num_encoded = encoder.num_encoded
    assert embed_shard(encoder, task) == summary
    assert encoder.num_encoded == num_encoded and file.read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == stamps
    with pytest.raises(UsageError, match=r"table is not complete: missing shards 0/2; run each of them"):
        merge_shards(tmp_path / "table")
    with pytest.raises(UsageError, match=r"table is not complete; finish it by the command that began it, or by"):
        SongTable(tmp_path / "table")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model_hash": "other"}, "Shard 1/3 has model_hash other, but shard 2/3 has plain; use the same model"),
        ({"hop_seconds": 0.1}, "Shard 1/3 has hop_num_samples 2205, but shard 2/3 has 5120; use the same model"),
        ({"files_per_part": 3}, "Shard 1/3 has another list of files than shard 2/3; give all shards the same paths"),
        ({"new": True}, "Shard 1/3 has another list of files than shard 2/3; give all shards the same paths"),
    ],
)
def test_a_foreign_shard_is_refused_by_name_before_and_after(music, tmp_path, changed, words):
    encoder = PlainEncoder(changed.pop("model_hash", "plain"))
    is_new, table, other = changed.pop("new", False), tmp_path / "table", tmp_path / "other"
    options = {"files_per_part": 2}
    embed_shard(PlainEncoder(), shard_of(table, listed(music), Shard(2, 3), **options))
    if is_new:
        write_song(music / "new.wav", 1)
    task = shard_of(table, listed(music), Shard(1, 3), **options | changed)
    with pytest.raises(UsageError, match=words):
        embed_shard(encoder, task)
    # As if both had run at once.
    embed_shard(encoder, dataclasses.replace(task, table=other))
    for folder in ("songs", "windows", "shards"):
        for file in (other / folder).iterdir():
            file.rename(table / folder / file.name)
    with pytest.raises(UsageError, match=r"Shard 2/3 has (model_hash|hop_num|another list)"):
        merge_shards(table)
    assert not (table / "manifest.json").exists()


def test_shards_of_another_version_of_the_package_are_refused(music, tmp_path):
    table = tmp_path / "table"
    for number in (0, 1):
        embed_shard(PlainEncoder(), shard_of(table, listed(music), Shard(number, 2), files_per_part=2))
    summary = table / "shards" / "00001-of-00002.json"
    summary.write_text(summary.read_text().replace('"package_version": "', '"package_version": "9.'))
    with pytest.raises(UsageError, match=r"Shard 1/2 has package_version 9\..*, but shard 0/2 has .*; use the same"):
        merge_shards(table)


def test_a_damaged_shard_is_named_and_its_repetition_repairs_it(music, tmp_path):
    table = tmp_path / "table"
    expected = embedded(music, tmp_path / "expected", 3)
    tasks = [shard_of(table, listed(music), Shard(number, 3), files_per_part=2) for number in range(3)]
    summaries = [embed_shard(PlainEncoder(), task) for task in tasks]
    damaged = table / "windows" / f"{summaries[1].parts[0].name}.parquet"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:5000] + bytes(100) + whole[5100:])
    (table / "songs" / f"{summaries[2].parts[0].name}.parquet").unlink()
    with pytest.raises(UsageError, match="table has damaged shards 1/3, 2/3; run each of them, and merge again"):
        merge_shards(table)
    for task in tasks:
        embed_shard(PlainEncoder(), task)
    assert merge_shards(table) == expected
    assert content(table) == content(tmp_path / "expected")


def test_a_killed_command_is_completed_by_its_repetition_wherever_it_was_killed(tmp_path):
    music = tmp_path / "music"
    music.mkdir()
    for number in range(3):
        write_song(music / f"song {number}.wav", number, 2)
    arguments = [sys.executable, "-m", "tests.clmr_tf.inference.killed_embedding", str(music), str(tmp_path / "work")]
    (tmp_path / "work").mkdir()
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    num_embedding, num_update = map(int, done.stdout.split())
    assert num_embedding > 30 and num_update > 20


def test_a_full_disk_loses_only_the_part_that_was_written(music, tmp_path):
    table, encoder = tmp_path / "table", PlainEncoder()
    task = shard_of(table, listed(music), Shard(), files_per_part=2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The parts get larger; the third one does not fit.
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            embed_table(encoder, task)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    num_parts = len(list((table / "songs").iterdir()))
    assert 0 < num_parts < 5 and not list(table.rglob(".*")) and not (table / "manifest.json").exists()
    num_encoded = encoder.num_encoded
    embed_table(encoder, task)
    assert encoder.num_encoded - num_encoded < num_encoded + sum(range(1, 9)) - 1
    embedded(music, tmp_path / "expected")
    assert content(table) == content(tmp_path / "expected")


def test_no_usable_file_leaves_the_table_unpublished(tmp_path, music):
    for song in music.glob("*.wav"):
        song.unlink()
    with pytest.raises(ClmrError, match="None of the 1 files could be used as audio"):
        embedded(music, tmp_path / "table", 2)
    assert not (tmp_path / "table" / "manifest.json").exists()


def test_an_updated_table_equals_a_fresh_one_and_only_changed_files_are_embedded(music, tmp_path, monkeypatch):
    table = tmp_path / "table"
    embedded(music, table, 2, files_per_part=4)
    (music / "song 2.wav").unlink()
    write_song(music / "song 3.wav", 40, 2)
    for name in ("a first.wav", "song 4 a.wav", "song 4 b.wav", "song 4 c.wav", "z last.wav"):
        write_song(music / name, 7, 4)
    manifest = read_manifest(table)
    update = plan_update(table, manifest, listed(music), files_per_part=4)
    assert (update.num_new, update.num_vanished) == (6, 1)
    decoded = []
    stream = embeddings.stream_windows
    monkeypatch.setattr(
        embeddings, "stream_windows", lambda files, *rest: decoded.extend(files) or stream(files, *rest)
    )
    update_table(PlainEncoder(), table, update, manifest)
    assert sorted(path.name for path in decoded) == sorted(
        ["a first.wav", "song 3.wav", "song 4 a.wav", "song 4 b.wav", "song 4 c.wav", "z last.wav"]
    )
    embedded(music, tmp_path / "fresh", files_per_part=4)
    assert rows(table) == rows(tmp_path / "fresh")
    assert rows(table, "windows") == rows(tmp_path / "fresh", "windows")
    skipped = [
        [one for part in read_manifest(folder).parts for one in part.skipped] for folder in (table, tmp_path / "fresh")
    ]
    assert skipped[0] == skipped[1] and len(skipped[0]) == 1
    # Of the old parts, nothing is left.
    assert len(list((table / "windows").iterdir())) == len(read_manifest(table).parts) == 5
    assert not plan_update(table, read_manifest(table), listed(music)).has_changes


def test_memory_does_not_grow_with_the_table(tmp_path):
    peaks = []
    for num_songs in (6, 24):
        music = tmp_path / str(num_songs)
        music.mkdir()
        for number in range(num_songs):
            write_song(music / f"{number:02d}.wav", number % 3, 8)
        # 600 windows of each song: 1.2 MB.
        task = shard_of(music / "table", listed(music), Shard(), files_per_part=2, hop_seconds=60 / RATE_HZ)
        pool = pyarrow.proxy_memory_pool(pyarrow.default_memory_pool())
        before = pyarrow.default_memory_pool()
        pyarrow.set_memory_pool(pool)
        tracemalloc.start()
        try:
            embed_table(PlainEncoder(), task)
        finally:
            pyarrow.set_memory_pool(before)
            peaks.append(tracemalloc.get_traced_memory()[1] + pool.max_memory())
            tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0], peaks


def flip(path: Path) -> None:
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        whole[:middle] + bytes(255 - byte for byte in whole[middle : middle + 100]) + whole[middle + 100 :]
    )


@pytest.mark.parametrize("damage", ["flip", "missing", "foreign"])
def test_damaged_parts_are_noticed_by_readers(music, tmp_path, damage):
    table = tmp_path / "table"
    manifest = embedded(music, table)
    part = table / "songs" / f"{manifest.parts[1].name}.parquet"
    if damage == "flip":
        flip(part)
    elif damage == "missing":
        part.unlink()
    else:
        embedded(music, tmp_path / "other", encoder=PlainEncoder("other"))
        next((tmp_path / "other" / "songs").iterdir()).rename(part)
    words = (
        "songs/.* has other|table has model_hash plain, but"
        if damage == "foreign"
        else f"{part.name} is missing, damaged"
    )
    with pytest.raises(UsageError, match=words):
        list(SongTable(table).blocks())


@pytest.fixture
def command(music, tmp_path, monkeypatch, capsys):
    """Runs the command in a folder with the music; returns its exit code and what it wrote."""
    monkeypatch.chdir(tmp_path)
    INCLUDED_MODEL.mkdir(parents=True)
    (INCLUDED_MODEL / "encoder.weights.h5").write_bytes(b"weights")
    encoder = PlainEncoder()
    monkeypatch.setattr("clmr_tf.inference.encoder.load_encoder", lambda folder: encoder)

    def run(*arguments: object) -> tuple[int, str]:
        code = run_command(embed.main, [*map(str, arguments)])
        written = capsys.readouterr()
        return code, written.out + "".join(line for line in written.err.splitlines() if line.startswith("error: "))

    return run


def test_the_command_embeds_shards_merges_and_updates(command, music, tmp_path, monkeypatch):
    options = ("music", "--out", "table", "--files-per-part", "2")
    assert command(*options, "--shard", "1/2") == (
        0,
        "Embedded 5 of 6 files of shard 1/2 to table; merge all shards by --merge.\n",
    )
    assert command("--merge", "table") == (
        2,
        "error: table is not complete: missing shards 0/2; run each of them, and merge again.",
    )
    with (tmp_path / "table" / ".lock-00000-of-00002").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, error = command(*options, "--shard", "0/2")
        assert code == 2 and error.startswith("error: Another process is writing table; wait for it")
    assert command(*options, "--shard", "0/2")[0] == 0
    with (tmp_path / "table" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert command("--merge", "table") == (2, "error: Another process is writing table; wait for it.")
    assert command("--merge", "table") == (0, "table has 9 songs.\n")
    assert command("--merge", "table") == (0, "table has 9 songs.\n")

    def never(folder):
        raise AssertionError("There is nothing to embed.")

    with monkeypatch.context() as patch:
        patch.setattr("clmr_tf.inference.encoder.load_encoder", never)
        assert command(*options) == (0, "Nothing to do: table has 9 songs.\n")
        assert command(*options, "--update") == (0, "Nothing to do: table has 9 songs.\n")
    (music / "song 0.wav").unlink()
    os.utime(music / "song 5.wav", (1e9, 1e9))
    code, error = command(*options, "--shard", "1/2")
    assert (
        code == 2 and "table is complete, but there are 1 new or changed files and 1 that are gone; add --up" in error
    )
    changes = "1 new or changed files and 1 that are gone"
    assert command(*options, "--update") == (0, f"Updated for {changes}: table has 8 songs.\n")
    monkeypatch.setattr("clmr_tf.inference.encoder.load_encoder", lambda folder: PlainEncoder("other"))
    (INCLUDED_MODEL / "encoder.weights.h5").write_bytes(b"other weights")
    for more in ((), ("--update",)):
        code, error = command(*options, *more)
        assert code == 2 and "table has model_hash plain, but this command has other; use the same model" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["music", "--out", "x.npz", "--shard", "0/2"], "--shard and --update need a folder for --out; received x.npz"),
        (
            ["music", "--out", "x", "--shard", "2/2"],
            "--shard must be K/N, with K from 0 to N - 1, such as 3/16; received '2/2'",
        ),
        (
            ["music", "--out", "x", "--shard", "0/2", "--update"],
            "--update runs in one process; give it without --shard",
        ),
        (["music", "--out", "music"], "music exists and is not a table of embeddings; choose another --out"),
        (["music", "--out", "no/x"], "no/x cannot be written; give --out a folder or an .npz file in an existing"),
        (["music", "--out", "x", "--files-per-part", "0"], "--files-per-part must be at least 1; received 0"),
        (["music", "--merge", "x"], "--merge only merges shards that are finished; give it alone, without files"),
        (["--merge", "music"], "music is not the folder of a table; give --merge the folder that the shards have as"),
    ],
)
def test_wrong_usage_is_one_sentence(command, music, arguments, words):
    code, error = command(*arguments)
    assert code == 2 and words in error
    assert sorted(path.name[0] for path in music.iterdir()) == ["s"] * 10
