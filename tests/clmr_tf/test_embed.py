"""Files to embeddings, against the encoder on each file by itself."""

import json

import numpy as np
import pytest
import soundfile

from clmr_tf import embed, embedding_stream
from clmr_tf.console import run_command
from clmr_tf.embedding_files import embed_files, find_files
from clmr_tf.embedding_table import read_songs
from clmr_tf.encoder import Encoder
from clmr_tf.errors import UsageError
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


def read(path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def test_every_file_has_the_embeddings_it_has_by_itself(encoder, music, tmp_path):
    files = find_files([music])
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
    facts = json.loads(str(found["facts"]))
    assert (facts["hop_num_samples"], facts["window_num_samples"], facts["sample_rate_hz"]) == (11_025, CLIP, RATE_HZ)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_odd_files_are_embedded_or_listed_and_harm_no_other(encoder, music, tmp_path):
    eight = np.stack([melody(number, 3 * 192_000, 192_000) for number in range(8)], 1)
    soundfile.write(tmp_path / "a eight.wav", eight, 192_000)
    soundfile.write(tmp_path / "b short.wav", melody(1, 8_000, 8_000), 8_000)
    soundfile.write(tmp_path / "c silent.flac", np.zeros(3 * RATE_HZ), RATE_HZ)
    soundfile.write(tmp_path / "d empty.wav", np.zeros(0), RATE_HZ)
    (tmp_path / "e text.mp3").write_text("These are words and not music. " * 40)
    whole = (music / "song 1.flac").read_bytes()
    (tmp_path / "f cut.flac").write_bytes(whole[: len(whole) // 2])
    soundfile.write(tmp_path / "g last.wav", melody(2, 3 * RATE_HZ), RATE_HZ)
    embedded, skipped = embed_files(encoder, find_files([tmp_path]), tmp_path / "x.npz", batch_size=2)
    found = read(tmp_path / "x.npz")
    assert [one.path.name[0] for one in embedded] == list("abcdg")
    assert [one.path.name[0] for one in skipped] == list("ef")
    assert found["skipped_paths"].tolist() == [str(one.path) for one in skipped] and found["skipped_reasons"][0]
    np.testing.assert_array_equal(found["is_padded"], [False, True, False, True, False])
    np.testing.assert_array_equal(found["file_index"], range(5))
    np.testing.assert_allclose(found["durations_seconds"], [3, 1, 3, 0, 3], atol=1e-3)
    silence = encoder.encode_clips(np.zeros((1, CLIP), np.float32))[0]
    np.testing.assert_allclose(found["vectors"][[2, 3]], [silence, silence], atol=1e-5)
    expected = encoder.embed(eight.mean(axis=1), sample_rate=192_000).vectors[0]
    np.testing.assert_allclose(found["vectors"][0], expected, atol=5e-3 * np.abs(expected).max())


def test_a_list_that_was_interrupted_goes_on_and_ends_the_same(encoder, music, tmp_path, monkeypatch):
    files = find_files([music])
    embed_files(encoder, files, tmp_path / "through.npz", batch_size=1)

    def interrupt(done: int, _of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_files(encoder, files, tmp_path / "resumed.npz", batch_size=1, on_file=interrupt)
    assert not (tmp_path / "resumed.npz").exists()
    decoded = []
    stream = embedding_stream.stream_windows
    monkeypatch.setattr(
        embedding_stream, "stream_windows", lambda files, *rest: decoded.extend(files) or stream(files, *rest)
    )
    embed_files(encoder, files, tmp_path / "resumed.npz", batch_size=1)
    assert decoded == files[2:]
    assert (tmp_path / "resumed.npz").read_bytes() == (tmp_path / "through.npz").read_bytes()


def test_parquet_holds_what_npz_holds(encoder, music, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    files = [*find_files([music]), tmp_path / "bad.mp3"]
    files[-1].write_text("no music at all, but some words")
    for suffix in ("npz", "parquet"):
        embed_files(encoder, files, tmp_path / f"x.{suffix}", hop_seconds=1.0)
    expected = read(tmp_path / "x.npz")
    rows = parquet.read_table(tmp_path / "x.parquet").to_pydict()
    np.testing.assert_array_equal(np.array(rows["embedding"], np.float32), expected["vectors"])
    np.testing.assert_array_equal(rows["time_seconds"], expected["times_seconds"])
    assert rows["path"] == expected["paths"][expected["file_index"]].tolist()
    assert rows["duration_seconds"] == expected["durations_seconds"][expected["file_index"]].tolist()
    assert rows["is_padded"] == expected["is_padded"][expected["file_index"]].tolist()
    metadata = json.loads(parquet.read_schema(tmp_path / "x.parquet").metadata[b"clmr_tf"])
    assert metadata["facts"] == json.loads(str(expected["facts"]))
    assert metadata["skipped"] == [[str(files[-1]), expected["skipped_reasons"][0]]]
    npz, same = read_songs(tmp_path / "x.npz"), read_songs(tmp_path / "x.parquet")
    assert npz.paths == same.paths == tuple(map(str, files[:-1])) and npz.facts == same.facts
    np.testing.assert_allclose(same.means, npz.means, rtol=1e-6)


@pytest.mark.parametrize("name", ["text.npz", "text.parquet", "other.npz", "missing.npz"])
def test_what_is_no_table_is_one_sentence(tmp_path, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    if name.startswith("text"):
        (tmp_path / name).write_text("words")
    if name.startswith("other"):
        np.savez(tmp_path / name, paths=np.zeros(3))
    with pytest.raises(UsageError, match=f"{name} is no table of embeddings that can be read; give the file that"):
        read_songs(tmp_path / name)


def test_the_command(encoder, music, tmp_path, monkeypatch, capsys):
    # The folder of a model takes seconds to write, and to load is another test's matter.
    monkeypatch.setattr("clmr_tf.pretrained.load_encoder", lambda folder: encoder)
    out = tmp_path / "out.npz"
    assert run_command(embed.main, [str(music / "song 0.wav"), str(music), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"Embedded 4 of 4 files to {out}.\n"
    assert len(read(out)["vectors"]) == 4
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.mp3").write_text("no music at all, but some words")
    assert run_command(embed.main, [str(tmp_path / "bad"), "--out", str(out)]) == 1
    errors = capsys.readouterr().err
    assert "x.mp3 is skipped: " in errors and "None of the 1 files could be used as audio" in errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "No music was given; name files or folders"),
        (["nowhere.mp3"], "There is no file or folder nowhere.mp3"),
        (["."], "There is no audio file in .; name audio files, or folders of them"),
        ([".", "--out", "x.csv"], "--out must be a file that ends in .npz or .parquet; received x.csv"),
        ([".", "--out", "no/x.npz"], "no/x.npz cannot be written; choose a file in a folder that exists"),
        ([".", "--batch-size", "0"], "--batch-size must be at least 1; received 0"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert run_command(embed.main, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error
