"""Tables of embeddings in shards: the same bytes however they came about, and nothing half published."""

import contextlib
import dataclasses
import fcntl
import json
import os
import pickle
import re
import resource
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import soundfile
from pyarrow import parquet

from clmr_tf import embed
from clmr_tf.audio.decoding import UnreadableAudioError, decoder_versions, open_audio
from clmr_tf.audio.listing import SkippedFile, find_audio
from clmr_tf.config.command_line import INCLUDED_MODEL
from clmr_tf.config.shards import Shard
from clmr_tf.console import run_command
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.export.model_folder import recorded_hash
from clmr_tf.inference import embeddings, shards
from clmr_tf.inference.encoder import fastest_runtime
from clmr_tf.inference.library import Library
from clmr_tf.inference.shards import (
    embed_shard,
    embed_table,
    list_files,
    merge_shards,
    opened_worker,
    plan_update,
    shard_of,
    update_table,
)
from clmr_tf.inference.tables import SongTable, read_manifest
from tests.clmr_tf.inference.killed_embedding import content
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
        (
            {"model_hash": "plain-int8"},
            r"Shard 1/3 uses 8-bit integers \(--runtime litert-int8\), but shard 2/3 uses float32; use the same",
        ),
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
    with pytest.raises(UsageError, match=r"Shard 2/3 (has (model_hash|hop_num|another list)|uses float32)"):
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
    # The parts get larger; the fourth one does not fit.
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            embed_table(encoder, task)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    num_parts = len(list((table / "songs").iterdir()))
    assert 0 < num_parts < 5 and not list(table.rglob(".*")) and not (table / "manifest.json").exists()
    num_kept = sum(parquet.read_metadata(path).num_rows for path in (table / "windows").iterdir())
    num_encoded = encoder.num_encoded
    embed_table(encoder, task)
    assert encoder.num_encoded - num_encoded == 37 - num_kept
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
    assert not plan_update(table, read_manifest(table), listed(music)).has_changes
    # The old parts stay for programs that are reading them; `merge_shards` would remove them too.
    write_song(music / "song 3.wav", 41, 2)
    manifest = read_manifest(table)
    update_table(PlainEncoder(), table, plan_update(table, manifest, listed(music)), manifest)
    assert len(list((table / "windows").iterdir())) == len(read_manifest(table).parts) + 1 == 6


def test_the_documented_lines_read_what_an_updated_table_has(music, tmp_path, monkeypatch):
    (tmp_path / "read").mkdir()
    monkeypatch.chdir(tmp_path / "read")
    table = Path("music")
    embedded(music, table)
    (music / "song 2.wav").unlink()
    write_song(music / "song 3.wav", 40, 2)
    manifest = read_manifest(table)
    update_table(PlainEncoder(), table, plan_update(table, manifest, listed(music), files_per_part=2), manifest)
    text = (Path(__file__).parents[3] / "docs" / "embedding.md").read_text(encoding="utf-8")
    (lines,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "manifest.json" in block]
    names = {}
    exec(lines, names)
    assert names["songs"]["path"].to_pylist() == [str(path) for path in sorted(music.glob("*.wav"))]
    assert names["songs"]["num_windows"].to_pylist()[2] == 2


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
    words = {
        "foreign": "table has model_hash plain, but .*songs/.* has other",
        "missing": f"{part.name} is gone: if an update has just replaced it, run this command again",
        "flip": f"{part.name} is damaged or of another table; remove the table",
    }
    with pytest.raises(UsageError, match=words[damage]):
        list(SongTable(table).blocks())


def write_model_manifest(weights_sha256: str) -> None:
    parts = {"architecture": {"arguments": {}}, "training": {"step": 1}, "scores": {}}
    parts |= {"format_version": 1, "tag_names": [], "single_label": False, "weights_sha256": weights_sha256}
    (Path("model") / "manifest.json").write_text(json.dumps(parts))


@pytest.fixture
def command(music, tmp_path, monkeypatch, capsys):
    """Runs the command in a folder with the music; returns its exit code and what it wrote."""
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    write_model_manifest("plain")
    encoder = PlainEncoder()
    monkeypatch.setattr("clmr_tf.inference.encoder.load_encoder", lambda folder, runtime: encoder)

    def run(*arguments: object) -> tuple[int, str]:
        code = run_command(embed.main, ["--model", "model", *map(str, arguments)])
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
        with monkeypatch.context() as patch:
            patch.setattr(embed, "LOCK_TIMEOUT_SECONDS", 0.1)
            code, error = command(*options, "--shard", "0/2")
        assert code == 2 and error.startswith("error: Another process is writing table; wait for it")
        # As the server of a network file system releases the lock of a lost machine.
        threading.Timer(0.3, fcntl.flock, [lock.fileno(), fcntl.LOCK_UN]).start()
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
    monkeypatch.setattr("clmr_tf.inference.encoder.load_encoder", lambda folder, runtime: PlainEncoder("other"))
    write_model_manifest("other")
    for more in ((), ("--update",)):
        code, error = command(*options, *more)
        assert code == 2 and "table has model_hash plain, but this command has other; use the same model" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["music", "--out", "x.npz", "--shard", "0/2"],
            "--shard, --update and --cluster need a folder for --out; received x.npz",
        ),
        (
            ["music", "--out", "x", "--shard", "2/2"],
            "--shard must be K/N, with K from 0 to N - 1, such as 3/16; received '2/2'",
        ),
        (
            ["music", "--out", "x", "--shard", "0/2", "--update"],
            "--update runs in one process; give it without --shard",
        ),
        (
            ["music", "--out", "x", "--shard", "0/2", "--model", "run"],
            "--shard and --cluster need a model folder, so that all shards have the same weights; received run, export",
        ),
        (["music", "--out", "music"], "music exists and is not a table of embeddings; choose another --out"),
        (["music", "--out", "no/x"], "no/x cannot be written; give --out a folder or an .npz file in an existing"),
        (["music", "--out", "x", "--files-per-part", "0"], "--files-per-part must be at least 1; received 0"),
        (["music", "--merge", "x"], "--merge only merges shards that are finished; give it alone, without files"),
        (["--merge", "music"], "music is not the folder of a table; give --merge the folder that the shards have as"),
    ],
)
def test_wrong_usage_is_one_sentence(command, music, tmp_path, arguments, words):
    (tmp_path / "run").mkdir()
    code, error = command(*arguments)
    assert code == 2 and words in error
    assert sorted(path.name[0] for path in music.iterdir()) == ["s"] * 10


@pytest.mark.parametrize("name", ["songs/a.wav", "windows/notes.parquet", "shards/a.json"])
def test_a_folder_with_other_files_is_no_table(command, tmp_path, name):
    mine = tmp_path / "mine"
    for folder in ("songs", "windows", "shards"):
        (mine / folder).mkdir(parents=True)
    write_song(mine / "song.wav", 1)
    (mine / name).write_bytes((mine / "song.wav").read_bytes())
    before = content(mine)
    for more in ((), ("--shard", "0/2")):
        code, error = command("mine", "--out", "mine", *more)
        assert (
            code == 2 and error == f"error: mine/{name} does not belong to a table of embeddings; choose another --out."
        )
    assert content(mine) == before


def test_only_parts_and_drafts_are_removed_from_a_table(music, tmp_path):
    table = tmp_path / "table"
    manifest = embedded(music, table)
    expected = content(table)
    for name in (f"songs/{'0' * 20}.parquet", f"windows/.{manifest.parts[0].name}.parquet.01234567"):
        (table / name).write_text("left over")
    others = {"songs/a.wav": b"music", "windows/notes.parquet": b"mine", "songs/.hidden": b"mine"}
    for name, text in others.items():
        (table / name).write_bytes(text)
    merge_shards(table)
    assert content(table) == expected | others


@pytest.fixture
def table(command, music):
    """A table that was embedded by two shards, in parts of two files."""
    for shard in ("0/2", "1/2"):
        assert command("music", "--out", "table", "--files-per-part", "2", "--shard", shard)[0] == 0
    assert command("--merge", "table")[0] == 0
    return Path("table").absolute()


def test_a_repeated_shard_does_not_disturb_an_update(command, music, table, monkeypatch):
    new = [music / f"z {number}.wav" for number in range(4)]
    codes = []

    class Encoder(PlainEncoder):
        def encode_clips(self, *arguments):
            codes.append(None)
            # The first new part is written. The shard has listed the folder before the new files came.
            if len(codes) == 2:
                for path in new:
                    path.rename(path.with_name(f".{path.name}"))
                codes.append(command("music", "--out", "table", "--shard", "1/2")[0])
                for path in new:
                    path.with_name(f".{path.name}").rename(path)
            return super().encode_clips(*arguments)

    for path in new:
        write_song(path, 3)
    encoder = Encoder()
    with monkeypatch.context() as patch:
        patch.setattr("clmr_tf.inference.encoder.load_encoder", lambda folder, runtime: encoder)
        code, error = command("music", "--out", "table", "--update", "--files-per-part", "2")
        assert code == 0, error
    assert 0 in codes
    assert sum(len(block.paths) for block in SongTable(table).blocks()) == NUM_SONGS + 4


def test_readers_finish_after_an_update_and_are_told_to_start_again_after_the_next(command, music, table):
    library, songs = Library(table), SongTable(table)
    before = library.windows_of(3)
    for number in range(2):
        (music / f"song {2 + number}.wav").unlink()
        assert command("music", "--out", "table", "--update")[0] == 0
        if number == 0:
            np.testing.assert_array_equal(library.windows_of(3)[1], before[1])
            assert [path for block in songs.blocks() for path in block.paths] == library.paths
    with pytest.raises(UsageError, match=r"windows/.* is gone: if an update has just replaced it, run this command"):
        library.windows_of(3)
    with pytest.raises(UsageError, match=r"songs/.* is gone: if an update has just replaced it, run this command"):
        list(songs.blocks())


def test_what_cannot_be_read_for_a_moment_keeps_its_embeddings(command, music, tmp_path, monkeypatch, caplog):
    (music / "disc").mkdir()
    for number in range(3):
        write_song(music / "disc" / f"{number}.wav", number)
    options = ("music", "--out", "table", "--files-per-part", "3")
    assert command(*options)[0] == 0
    table = tmp_path / "table"
    before, scandir = content(table), os.scandir

    def refuse(path="."):
        if str(path).endswith("/disc"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        assert command(*options, "--update") == (0, "Nothing to do: table has 12 songs.\n")
        assert "music/disc cannot be read (the folder cannot be listed: Permission denied), so " in caplog.text
        assert content(table) == before
        # What has changed elsewhere is brought up to date.
        (music / "song 0.wav").unlink()
        assert command(*options, "--update")[0] == 0
    assert rows(table)["path"] == [str(path) for path in sorted(music.rglob("*.wav"))]
    assert command(*options, "--update") == (0, "Nothing to do: table has 11 songs.\n")

    # A file that could be listed, but not looked up.
    files, _ = find_audio([music])
    unreadable = SkippedFile(str(files.pop(4)), "unreadable", "Stale file handle")
    assert not plan_update(table, read_manifest(table), list_files(files, [unreadable])).has_changes


def test_an_update_tries_files_again_whose_decoder_was_stopped(command, music, tmp_path, monkeypatch):
    class Decoder(DecoderInThisProcess):
        num_tried = 0

        @contextlib.contextmanager
        def open(self, path, sample_rate_hz):
            if path.name == "song 3.wav":
                Decoder.num_tried += 1
                if Decoder.num_tried < 3:
                    raise UnreadableAudioError("crashed", "its decoder crashed (exit code -9)")
            with open_audio(path, sample_rate_hz) as stream:
                yield stream

    monkeypatch.setattr(shards, "IsolatedDecoder", Decoder)
    options = ("music", "--out", "table", "--files-per-part", "2")
    assert command(*options)[0] == 0
    table = tmp_path / "table"
    before = content(table)
    assert command(*options) == (0, "Nothing to do: table has 8 songs.\n")
    # In vain: nothing changes.
    changes = "0 new or changed files and 0 that are gone, and 1 that could not be decoded before"
    assert command(*options, "--update") == (0, f"Updated for {changes}: table has 8 songs.\n")
    assert Decoder.num_tried == 2 and content(table) == before
    assert command(*options, "--update") == (0, f"Updated for {changes}: table has 9 songs.\n")
    assert command(*options, "--update") == (0, "Nothing to do: table has 9 songs.\n")
    embedded(music, tmp_path / "fresh")
    assert Decoder.num_tried == 4
    assert rows(table) == rows(tmp_path / "fresh") and rows(table, "windows") == rows(tmp_path / "fresh", "windows")


def test_a_file_that_changes_while_it_is_embedded_is_embedded_again(music, tmp_path):
    class Encoder(PlainEncoder):
        def encode_clips(self, *arguments):
            write_song(music / "song 8.wav", 77, 4)
            return super().encode_clips(*arguments)

    table = tmp_path / "table"
    manifest = embedded(music, table, encoder=Encoder())
    update = plan_update(table, manifest, listed(music), files_per_part=2)
    assert (update.num_new, update.num_vanished) == (1, 0)
    update_table(PlainEncoder(), table, update, manifest)
    embedded(music, tmp_path / "fresh")
    assert rows(table) == rows(tmp_path / "fresh") and rows(table, "windows") == rows(tmp_path / "fresh", "windows")


def test_an_update_that_would_leave_nothing_is_refused(command, music, table, tmp_path):
    (tmp_path / "words.mp3").write_text("These are words and not music. " * 40)
    before = content(table)
    assert command("words.mp3", "--out", "table", "--update") == (
        1,
        "error: The update would leave no song in table; give all paths that it was made from.",
    )
    after = content(table)
    assert {name: after[name] for name in before} == before


def test_a_part_that_another_process_replaces_is_one_sentence(music, tmp_path, monkeypatch):
    write_table = parquet.write_table

    def replace(content, file, **options):
        # Windows with other last bits, as another runtime computes them.
        (windows,) = (tmp_path / "table" / "windows").glob("[0-9a-f]*.parquet")
        flip(windows)
        write_table(content, file, **options)

    monkeypatch.setattr(parquet, "write_table", replace)
    with pytest.raises(ClmrError, match=r"table/windows/.* was changed by another process .*; run it again"):
        embedded(music, tmp_path / "table")


def test_many_missing_shards_are_named_in_short(music, tmp_path):
    embed_shard(PlainEncoder(), shard_of(tmp_path / "table", listed(music), Shard(2, 3000)))
    with pytest.raises(UsageError, match=r"missing shards 0/3000, 1/3000, 3/3000, .* and 2989 more; run each of them"):
        merge_shards(tmp_path / "table")


def test_a_merge_waits_for_shards_that_are_still_running(command, table):
    with (table / ".lock-00001-of-00002").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert command("--merge", "table") == (
            2,
            "error: Another process is embedding a shard of table; wait for it.",
        )


@pytest.fixture
def cluster(monkeypatch):
    """Stands for Ray: opens two workers in this process, which take shards in turn."""

    def run(options, open_worker, tasks, *, doing):
        workers = [pickle.loads(pickle.dumps(open_worker))() for _ in range(2)]
        return [workers[row % 2](pickle.loads(pickle.dumps(task.argument))) for row, task in enumerate(tasks)]

    monkeypatch.setattr(embed, "run_on_cluster", run)


@pytest.mark.parametrize("more", [(), ("--cluster", "local", "--runtime", "onnx")])
def test_a_command_for_all_shards_goes_on_after_shards_of_another_list(
    command, music, tmp_path, monkeypatch, cluster, more
):
    encoder = PlainEncoder()
    monkeypatch.setattr("clmr_tf.inference.encoder.load_encoder", lambda folder, runtime, num_threads=None: encoder)
    options = ("music", "--out", "table", "--files-per-part", "2")
    write_song(music / "song 9.wav", 9)
    assert command(*options, "--shard", "0/3")[0] == 0
    (music / "song 9.wav").unlink()
    for name, refusal in ((".lock", "writing table"), (".lock-00000-of-00003", "embedding a shard of table")):
        with (tmp_path / "table" / name).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            code, error = command(*options, *more)
            assert code == 2 and error.startswith(f"error: Another process is {refusal}; wait for it")
    encoder.num_encoded = 0
    assert command(*options, *more) == (0, "Embedded 9 of 10 files to table.\n")
    # The first two parts, of seven windows, are kept.
    assert encoder.num_encoded == 37 - 7
    embedded(music, tmp_path / "expected")
    found = content(tmp_path / "table")
    assert {name: found[name] for name in found if not name.startswith(".lock")} == content(tmp_path / "expected")


@pytest.mark.parametrize("more", [(), ("--cluster", "local", "--runtime", "onnx")])
def test_a_command_for_all_shards_keeps_finished_shards_that_it_cannot_use(
    command, music, tmp_path, monkeypatch, cluster, more
):
    options = ("music", "--out", "table", "--files-per-part", "2", "--shard", "0/2")
    assert command(*options)[0] == 0
    table = tmp_path / "table"
    before = {path: path.read_bytes() for path in table.rglob("*.*") if path.is_file() and path.suffix}

    def refused(*arguments: str) -> str:
        code, error = command(*arguments, "--out", "table", *more)
        assert code != 0
        assert {path: path.read_bytes() for path in before} == before
        return error

    def load(_folder, _runtime, num_threads=None):
        return encoder

    encoder = PlainEncoder()
    monkeypatch.setattr("clmr_tf.inference.encoder.load_encoder", load)
    (tmp_path / "others").mkdir()
    write_song(tmp_path / "others" / "other.wav", 1)
    for arguments in (("others",), ("music", "--files-per-part", "3")):
        assert "table has finished shards, and none of their parts is one of these files; finish" in refused(*arguments)
    assert "has hop_num_samples 11025, but shard 0/2 of" in refused("music", "--hop-seconds", "0.5")
    encoder = PlainEncoder("other")
    write_model_manifest("other")
    assert "has model_hash other, but shard 0/2 of" in refused("music", "--files-per-part", "2")

    def fail(*_, **__):
        raise ClmrError("The model is damaged.")

    monkeypatch.setattr("clmr_tf.inference.encoder.load_encoder", fail)
    assert "The model is damaged" in refused("music", "--files-per-part", "2")


def test_shards_without_a_song_are_no_obstacle(command, music, tmp_path):
    (tmp_path / "words.mp3").write_text("These are words and not music. " * 40)
    assert command("words.mp3", "--out", "table")[0] == 1
    assert command("music", "--out", "table") == (0, "Embedded 9 of 10 files to table.\n")


def test_merging_a_table_without_shards_is_one_sentence(command, tmp_path):
    (tmp_path / "table" / "songs").mkdir(parents=True)
    code, error = command("--merge", "table")
    assert code == 2 and error.startswith("error: table has no finished shard; run `python -m clmr_tf.embed` with")


def test_all_workers_get_the_runtime_of_the_command(command, music, cluster, monkeypatch):
    encoder, runtimes = PlainEncoder(recorded_hash(INCLUDED_MODEL, "auto")), []

    def load(folder, runtime, num_threads):
        runtimes.append(runtime)
        return encoder

    monkeypatch.setattr("clmr_tf.inference.encoder.load_encoder", load)
    assert command("music", "--out", "table", "--model", INCLUDED_MODEL, "--cluster", "local")[0] == 0
    assert runtimes == [fastest_runtime(INCLUDED_MODEL)] * 2


def test_workers_with_another_model_other_decoders_or_another_runtime_are_refused(monkeypatch):
    model_hash, versions = recorded_hash(INCLUDED_MODEL, "auto"), decoder_versions()
    assert callable(opened_worker(INCLUDED_MODEL, model_hash, "litert", 1, versions))
    with pytest.raises(UsageError, match=r"music-small has other weights there; copy the same model to all nodes"):
        opened_worker(INCLUDED_MODEL, "0" * 64, "litert", 1, versions)
    with pytest.raises(UsageError, match=r"Its version of soxr is \S+, not 0.1; install the same"):
        opened_worker(INCLUDED_MODEL, model_hash, "litert", 1, {**versions, "soxr": "0.1"})
    with pytest.raises(UsageError, match=r"has no model\.onnx, which the runtime onnx needs"):
        opened_worker(INCLUDED_MODEL, model_hash, "onnx", 1, versions)
