"""The approximate index, against exact search of the same table."""

import fcntl
import resource
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.similar import drawn_songs
from clmr_tf import embed, similar
from clmr_tf.console import run_command
from clmr_tf.errors import UsageError
from clmr_tf.inference import approximate_index, shards
from clmr_tf.inference.approximate_index import update_index
from clmr_tf.inference.embeddings import FileEmbedding
from clmr_tf.inference.similarity import nearest_in_blocks
from clmr_tf.inference.tables import ListedFile, Manifest, SongTable, TableSettings, write_part
from tests.clmr_tf.inference.plain_encoder import CLIP, RATE_HZ, DecoderInThisProcess, PlainEncoder, write_song

SETTINGS = TableSettings("drawn", RATE_HZ, CLIP, CLIP, 512)


def write_table(table: Path, blocks, songs_per_block: int) -> SongTable:
    """A part for each block of songs; a part that exists is kept."""
    for folder in ("songs", "windows"):
        (table / folder).mkdir(parents=True, exist_ok=True)
    parts = []
    for block in blocks:
        files = [ListedFile(f"/music/{block}/{row:05d}.mp3", 1, 1) for row in range(songs_per_block)]
        songs = np.concatenate(
            [drawn_songs(100 * block + n, min(200, songs_per_block)) for n in range(songs_per_block // 200 or 1)]
        )
        embedded = [
            FileEmbedding(Path(), song[None], np.zeros(1), 240.0, False, row == 3) for row, song in enumerate(songs)
        ]
        parts.append(write_part(table, SETTINGS, files, embedded))
    Manifest(SETTINGS, tuple(parts)).write(table)
    return SongTable(table)


def queries(blocks) -> list[np.ndarray]:
    return [drawn_songs(100 * block, 1, is_query=True)[0] for block in blocks]


def assert_as_exact(index, table: SongTable, blocks) -> None:
    """At most two of thirty are missed; all others are those of exact search, with the same similarities."""
    for query, expected in zip(queries(blocks), nearest_in_blocks(table.blocks(), queries(blocks), 40), strict=True):
        found, cosines = index.nearest(query, 30), {one.path: one.cosine for one in expected}
        assert len({one.path for one in found} & {one.path for one in expected[:30]}) >= 28 and len(found) == 30
        np.testing.assert_allclose([one.cosine for one in found], [cosines[one.path] for one in found], atol=1e-6)
        assert [one.cosine for one in found] == sorted((one.cosine for one in found), reverse=True)
        assert all(one.is_silent == one.path.endswith("00003.mp3") for one in found)


def files_of_index(table: SongTable) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (table.path / "index").glob("*.usearch")}


def test_at_most_two_of_a_hundred_neighbours_are_missed(tmp_path):
    table = write_table(tmp_path, range(5), 800)
    index = update_index(table)
    expected = nearest_in_blocks(table.blocks(), queries(range(5)), 10)
    hits = [
        len({one.path for one in index.nearest(query, 10)} & {one.path for one in exact})
        for query, exact in zip(queries(range(5)), expected, strict=True)
    ]
    assert np.mean(hits) / 10 >= 0.98


def test_an_index_in_segments_is_updated_in_parts_and_finds_what_exact_search_finds(tmp_path, monkeypatch):
    monkeypatch.setattr(approximate_index, "_MAX_SEGMENT_SONGS", 800)
    table = write_table(tmp_path, range(10), 200)
    index = update_index(table)
    before = files_of_index(table)
    # Segments of four, four and two parts.
    assert len(before) == 3
    assert_as_exact(index, table, range(10))
    assert_as_exact(update_index(table), table, range(10))
    assert files_of_index(table) == before

    # One part less in the first segment, one more in the last.
    table = write_table(tmp_path, [0, *range(2, 11)], 200)
    assert_as_exact(update_index(table), table, range(11))
    after = files_of_index(table)
    assert len(after) == 3 and len(before.items() & after.items()) == 2
    # Two parts are left of the first segment, which is not more than half of it.
    table = write_table(tmp_path, [0, *range(3, 11)], 200)
    assert_as_exact(update_index(table), table, range(11))
    assert len(files_of_index(table).items() & before.items()) == 1


def test_a_killed_build_keeps_its_segments_and_damaged_ones_are_built_again(tmp_path, monkeypatch):
    monkeypatch.setattr(approximate_index, "_MAX_SEGMENT_SONGS", 400)
    table = write_table(tmp_path, range(5), 200)

    def interrupt(done: int, _of: int) -> None:
        if done == 600:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        update_index(table, interrupt)
    (first,) = files_of_index(table).items()
    done = []
    assert_as_exact(update_index(table, lambda *one: done.append(one)), table, range(5))
    assert done == [(200, 600), (400, 600), (600, 600)]
    assert first in files_of_index(table).items() and len(files_of_index(table)) == 3

    cut = table.path / "index" / first[0]
    cut.write_bytes(cut.read_bytes()[:-1000])
    assert_as_exact(update_index(table), table, range(5))
    assert first[0] not in files_of_index(table)
    for path in (table.path / "index").glob("*.usearch"):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UsageError, match=r"usearch is damaged; remove .*index and build the index again"):
        update_index(table)


def test_a_full_disk_leaves_no_draft_and_is_named(tmp_path):
    table = write_table(tmp_path, range(1), 200)
    folder = tmp_path / "index"
    folder.mkdir()
    # What a killed process left, and what is not of an index.
    (folder / f".{'0' * 16}.usearch").write_bytes(bytes(1000))
    (folder / "notes.txt").write_text("mine")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            update_index(table)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.name for path in folder.iterdir()} <= {".lock", "notes.txt"}
    update_index(table)
    (segment,) = files_of_index(table)
    assert {path.name for path in folder.iterdir()} - {".lock"} == {"manifest.json", "notes.txt", segment}


def test_only_one_process_builds_an_index(tmp_path):
    table = write_table(tmp_path, range(1), 20)
    (tmp_path / "index").mkdir()
    with (tmp_path / "index" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match=f"Another process is building the index of {tmp_path}; wait for it"):
            update_index(table)


def test_the_commands_build_update_and_use_the_index(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    encoder = PlainEncoder()
    monkeypatch.setattr(shards, "IsolatedDecoder", DecoderInThisProcess)
    monkeypatch.setattr("clmr_tf.audio.isolation.IsolatedDecoder", DecoderInThisProcess)
    monkeypatch.setattr("clmr_tf.inference.encoder.load_encoder", lambda folder, runtime: encoder)
    music = tmp_path / "music"
    music.mkdir()
    for number in range(4):
        write_song(music / f"{number}.wav", number)

    def run(command, *arguments: str) -> str:
        code = run_command(command.main, arguments)
        written = capsys.readouterr()
        assert code == 0, written.err
        return written.out

    def names(written: str) -> list[str]:
        return [Path(line.split("  ")[-1]).name for line in written.splitlines()[1:]]

    run(embed, "music", "--out", "table")
    exact = run(similar, "music/1.wav", "--index", "table")
    assert run(similar, "--index", "table", "--build-index") == ""
    built = list((tmp_path / "table" / "index").glob("*.usearch"))
    assert run(similar, "music/1.wav", "--index", "table") == exact and len(names(exact)) == 3
    (music / "2.wav").unlink()
    write_song(music / "new.wav", 1)
    run(embed, "music", "--out", "table", "--update")
    assert list((tmp_path / "table" / "index").glob("*.usearch")) != built
    assert names(run(similar, "music/1.wav", "--index", "table"))[0] == "new.wav"
    # The index is out of date, as after a kill between the two steps of an update.
    (music / "new.wav").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(approximate_index, "has_index", lambda table: False)
        run(embed, "music", "--out", "table", "--update")
    assert sorted(names(run(similar, "music/1.wav", "--index", "table"))) == ["0.wav", "3.wav"]

    run(embed, "music", "--out", "table.npz")
    assert run_command(similar.main, ["--index", "table.npz", "--build-index"]) == 2
    assert "--build-index needs a table that is a folder; received table.npz" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    assert run_command(similar.main, ["music/1.wav", "--index", "table"]) == 2
    assert "An approximate index needs the package usearch (" in capsys.readouterr().err
