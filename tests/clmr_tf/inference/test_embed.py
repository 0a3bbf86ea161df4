"""Files to embeddings, against the encoder on each file by itself."""

import fcntl
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pyarrow import parquet

from clmr_tf import embed
from clmr_tf.audio.listing import find_audio
from clmr_tf.config.command_line import INCLUDED_MODEL
from clmr_tf.config.shards import Shard
from clmr_tf.console import run_command
from clmr_tf.errors import UsageError
from clmr_tf.inference import embeddings as embedding_stream
from clmr_tf.inference.encoder import Encoder
from clmr_tf.inference.shards import embed_npz, embed_shard, embed_table, list_files, merge_shards, shard_of
from clmr_tf.inference.tables import SongTable, read_manifest
from tests.clmr_tf.probed import CLIP, tiny_model
from tests.synthetic import melody, write_music

RATE_HZ = 22_050


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    model = tiny_model()
    return Encoder(model, model.clip_num_samples, model.sample_rate_hz)


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """WAV, FLAC, Ogg and MP3 of 4 seconds at 44,100 Hz, in a folder with something else."""
    folder = tmp_path_factory.mktemp("music")
    write_music(folder / "songs", 4)
    (folder / "songs" / "cover.txt").write_text("not music")
    return folder / "songs"


def embed_files(encoder, files, out, on_file=lambda done, of: None, **options):
    """Writes an .npz file or, without that suffix, a folder."""
    if out.suffix != ".npz":
        return embed_table(encoder, shard_of(out, list_files(files), Shard(), **options), on_file)
    return embed_npz(encoder, out, shard_of(out.with_suffix(".parts"), list_files(files), Shard(), **options), on_file)


def read(path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def test_a_file_has_the_same_embeddings_in_a_list_and_alone(encoder, music, tmp_path):
    files, _ = find_audio([music])
    assert [path.suffix for path in files] == [".wav", ".flac", ".ogg", ".mp3"]
    # Batches that end within files.
    done = []
    embed_files(
        encoder, files, tmp_path / "x.npz", hop_seconds=0.5, batch_size=5, on_file=lambda *one: done.append(one)
    )
    found = read(tmp_path / "x.npz")
    assert done == [(number, 4) for number in range(5)]
    assert found["paths"].tolist() == list(map(str, files))
    for row, path in enumerate(files):
        expected, own = encoder.embed(path, hop_seconds=0.5), found["file_index"] == row
        assert len(expected.vectors) == 3
        np.testing.assert_allclose(found["vectors"][own], expected.vectors, atol=1e-5)
        np.testing.assert_allclose(found["times_seconds"][own], expected.times_seconds)
        np.testing.assert_allclose(found["means"][row], expected.vectors.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found["durations_seconds"], 4, atol=0.1)
    assert not found["is_padded"].any()
    metadata = json.loads(str(found["metadata"]))
    assert (metadata["hop_num_samples"], metadata["window_num_samples"], metadata["sample_rate_hz"]) == (
        11_025,
        CLIP,
        RATE_HZ,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_odd_files_are_embedded_or_listed_and_do_not_affect_others(encoder, music, tmp_path):
    eight = np.stack([melody(number, 3 * 192_000, 192_000) for number in range(8)], 1)
    soundfile.write(tmp_path / "a eight.wav", eight, 192_000)
    soundfile.write(tmp_path / "b short.wav", melody(1, 8_000, 8_000), 8_000)
    soundfile.write(tmp_path / "c silent.flac", np.zeros(3 * RATE_HZ), RATE_HZ)
    soundfile.write(tmp_path / "d empty.wav", np.zeros(0), RATE_HZ)
    (tmp_path / "e text.mp3").write_text("These are words and not music. " * 40)
    whole = (music / "song 1.flac").read_bytes()
    (tmp_path / "f cut.flac").write_bytes(whole[: len(whole) // 2])
    soundfile.write(tmp_path / "g last.wav", melody(2, 3 * RATE_HZ), RATE_HZ)
    embed_files(encoder, find_audio([tmp_path])[0], tmp_path / "x.npz", batch_size=2)
    found = read(tmp_path / "x.npz")
    assert [Path(path).name[0] for path in found["paths"]] == list("abcfg")
    assert [Path(path).name[0] for path in found["skipped_paths"]] == list("de") and all(found["skipped_reasons"])
    np.testing.assert_array_equal(found["is_padded"], [False, True, False, True, False])
    np.testing.assert_array_equal(found["is_silent"], [False, False, True, False, False])
    np.testing.assert_array_equal(found["file_index"], range(5))
    np.testing.assert_allclose(found["durations_seconds"][[0, 1, 2, 4]], [3, 1, 3, 3], atol=1e-3)
    # Of the song of 4 s, the rest is lost.
    np.testing.assert_allclose(found["lost_seconds"], [0, 0, 0, 4 - found["durations_seconds"][3], 0], atol=1e-2)
    (songs,) = SongTable(tmp_path / "x.npz").blocks()
    np.testing.assert_array_equal(songs.is_silent, found["is_silent"])
    silence = encoder.encode_clips(np.zeros((1, CLIP), np.float32))[0]
    np.testing.assert_allclose(found["vectors"][2], silence, atol=1e-5)
    expected = encoder.embed(eight, sample_rate=192_000).vectors[0]
    np.testing.assert_allclose(found["vectors"][0], expected, atol=5e-3 * np.abs(expected).max())


def test_an_interrupted_list_resumes_with_the_same_result(encoder, music, tmp_path, monkeypatch):
    files, _ = find_audio([music])
    embed_files(encoder, files, tmp_path / "through.npz", batch_size=1, files_per_part=1)

    def interrupt(done: int, _of: int) -> None:
        # The part of the third file is not finished yet.
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_files(encoder, files, tmp_path / "resumed.npz", interrupt, batch_size=1, files_per_part=1)
    assert not (tmp_path / "resumed.npz").exists()
    decoded = []
    stream = embedding_stream.stream_windows
    monkeypatch.setattr(
        embedding_stream, "stream_windows", lambda files, *rest: decoded.extend(files) or stream(files, *rest)
    )
    embed_files(encoder, files, tmp_path / "resumed.npz", batch_size=1, files_per_part=1)
    assert decoded == files[2:]
    assert (tmp_path / "resumed.npz").read_bytes() == (tmp_path / "through.npz").read_bytes()


def test_a_folder_holds_what_npz_holds(encoder, music, tmp_path):
    files = [*find_audio([music])[0], tmp_path / "bad.mp3"]
    files[-1].write_text("no music at all, but some words")
    for name in ("x.npz", "x"):
        embed_files(encoder, files, tmp_path / name, hop_seconds=1.0)
    expected = read(tmp_path / "x.npz")
    (part,) = read_manifest(tmp_path / "x").parts
    windows = parquet.read_table(tmp_path / "x" / "windows" / f"{part.name}.parquet").to_pydict()
    songs = parquet.read_table(tmp_path / "x" / "songs" / f"{part.name}.parquet").to_pydict()
    np.testing.assert_array_equal(np.array(windows["embedding"], np.float32), expected["vectors"])
    np.testing.assert_array_equal(windows["time_seconds"], expected["times_seconds"])
    paths = expected["paths"].tolist()
    assert windows["path"] == [paths[row] for row in expected["file_index"]]
    assert songs["path"] == paths == list(map(str, files[:-1]))
    assert songs["duration_seconds"] == expected["durations_seconds"].tolist()
    for name in ("is_padded", "is_silent", "lost_seconds"):
        assert songs[name] == expected[name].tolist()
    assert [(one.source, one.detail) for one in part.skipped] == [(str(files[-1]), expected["skipped_reasons"][0])]
    npz, folder = SongTable(tmp_path / "x.npz"), SongTable(tmp_path / "x")
    assert (npz.model_hash, npz.hop_num_samples, npz.num_songs) == (
        folder.model_hash,
        folder.hop_num_samples,
        folder.num_songs,
    )
    for one, other in zip(npz.blocks(), folder.blocks(), strict=True):
        assert one.paths == other.paths
        np.testing.assert_array_equal(one.means, other.means)
        np.testing.assert_array_equal(one.is_silent, other.is_silent)


def test_a_network_gives_the_same_bytes_in_two_shards(encoder, music, tmp_path):
    files = find_audio([music])[0]
    embed_files(encoder, files, tmp_path / "one", hop_seconds=0.5, batch_size=5, files_per_part=2)
    for number in (1, 0):
        options = {"hop_seconds": 0.5, "batch_size": 5, "files_per_part": 2}
        embed_shard(encoder, shard_of(tmp_path / "two", list_files(files), Shard(number, 2), **options))
    merge_shards(tmp_path / "two")
    written = [path.relative_to(tmp_path / "one") for path in sorted((tmp_path / "one").rglob("*.parquet"))]
    assert len(written) == 4
    for path in [*written, "manifest.json"]:
        assert (tmp_path / "two" / path).read_bytes() == (tmp_path / "one" / path).read_bytes()


@pytest.mark.parametrize("name", ["text.npz", "other.npz", "missing.npz", "text", "missing", "folder"])
def test_what_is_not_a_table_is_one_sentence(tmp_path, name):
    if name.startswith("text"):
        (tmp_path / name).write_text("words")
    if name.startswith("other"):
        np.savez(tmp_path / name, paths=np.zeros(3))
    if name == "folder":
        (tmp_path / name).mkdir()
    with pytest.raises(
        UsageError, match=f"{name} is not a readable table of embeddings; give a file or folder written"
    ):
        SongTable(tmp_path / name)


def test_npz_files_with_other_content_are_noticed(tmp_path):
    means = {"paths": np.array(["a"]), "means": np.full((1, 512), np.nan, np.float32), "is_silent": np.array([False])}
    metadata = {"format_version": 1, "model_hash": "x", "hop_num_samples": 1}
    for changed in (
        {},
        {"means": np.zeros((2, 512), np.float32)},
        {"metadata": np.array(json.dumps({**metadata, "hop_num_samples": 0}))},
    ):
        arrays = {**means, "metadata": np.array(json.dumps(metadata)), **changed}
        np.savez(tmp_path / "y.npz", **arrays)
        with pytest.raises(UsageError, match=r"y\.npz is damaged or of another version"):
            SongTable(tmp_path / "y.npz")


def test_odd_names_and_paths_do_not_affect_other_files(encoder, music, tmp_path, monkeypatch):
    monkeypatch.setattr("clmr_tf.inference.encoder.load_encoder", lambda folder: encoder)
    folder = tmp_path / "odd"
    folder.mkdir()
    content = (music / "song 0.wav").read_bytes()
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/z \xff [bold] :guitar:.wav"))
    odd.write_bytes(content)
    (folder / "link.wav").symlink_to("nowhere.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    arguments = [str(odd), str(tmp_path / "pipe.wav"), str(folder), str(folder / ".." / "odd"), "--out", "x"]
    monkeypatch.chdir(tmp_path)
    INCLUDED_MODEL.mkdir(parents=True, exist_ok=True)
    # As a strict terminal takes it: UTF-8 and nothing else.
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict"))
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict"))
    assert run_command(embed.main, arguments) == 0
    assert run_command(embed.main, [str(odd), "--out", "x.npz"]) == 0
    for name in ("x", "x.npz"):
        ((path,),) = (songs.paths for songs in SongTable(tmp_path / name).blocks())
        assert path.startswith(f"{folder}/z \\xff [bold] :guitar:.wav#")


def test_two_processes_cannot_write_one_table(encoder, music, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("clmr_tf.inference.encoder.load_encoder", lambda folder: encoder)
    parts, arguments = tmp_path / ".x.npz.parts", [str(music / "song 0.wav"), "--out", str(tmp_path / "x.npz")]
    parts.mkdir()
    with (parts / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run_command(embed.main, arguments) == 2
        assert f"Another process is writing {tmp_path}/x.npz; wait for it, or choose" in capsys.readouterr().err
    assert run_command(embed.main, arguments) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_a_table_is_kept_if_nothing_could_be_embedded(encoder, music, tmp_path, monkeypatch):
    monkeypatch.setattr("clmr_tf.inference.encoder.load_encoder", lambda folder: encoder)
    out = ["--out", str(tmp_path / "x.npz")]
    assert run_command(embed.main, [str(music / "song 0.wav"), *out]) == 0
    before = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "bad.mp3").write_text("no music at all, but some words")
    assert run_command(embed.main, [str(tmp_path / "bad.mp3"), *out]) == 1
    assert (tmp_path / "x.npz").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.mp3", "x.npz"]


def test_the_command(encoder, music, tmp_path, monkeypatch, capsys, caplog):
    # The folder of a model takes seconds to write, and to load is another test's matter.
    monkeypatch.setattr("clmr_tf.inference.encoder.load_encoder", lambda folder: encoder)
    out = tmp_path / "out.npz"
    assert run_command(embed.main, [str(music / "song 0.wav"), str(music), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"Embedded 4 of 4 files to {out}.\n"
    assert len(read(out)["vectors"]) == 4
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.mp3").write_text("no music at all, but some words")
    assert run_command(embed.main, [str(tmp_path / "bad"), "--out", str(out)]) == 1
    assert "x.mp3 is skipped: " in caplog.text
    assert "None of the 1 files could be used as audio" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "No music was given; give files or folders"),
        (["nowhere.mp3"], "nowhere.mp3: No such file or directory); give audio files"),
        (["."], "; give audio files, or folders that contain some"),
        ([".", "--out", "x.csv"], "--out must be a folder or a file that ends in .npz; received x.csv"),
        ([".", "--out", "no/x.npz"], "no/x.npz cannot be written; give --out a file in an existing folder"),
        ([".", "--batch-size", "0"], "--batch-size must be 1 to 1024; received 0"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    INCLUDED_MODEL.mkdir(parents=True, exist_ok=True)
    assert run_command(embed.main, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error
