"""Similar songs, against scikit-learn's cosines and against songs that are known to be alike."""

import numpy as np
import pytest
import soundfile
from sklearn.metrics.pairwise import cosine_similarity

from clmr_tf import embed, similar
from clmr_tf.config.command_line import INCLUDED_MODEL
from clmr_tf.console import run_command
from clmr_tf.inference.encoder import Encoder
from clmr_tf.inference.similarity import SongIndex, nearest_in_blocks
from clmr_tf.inference.tables import Songs
from tests.clmr_tf.probed import tiny_model
from tests.synthetic import melody

RATE_HZ = 22_050


def songs_of(vectors, paths=None) -> Songs:
    return Songs(paths or [f"{row}.mp3" for row in range(len(vectors))], vectors, np.zeros(len(vectors), bool))


def test_the_nearest_are_those_of_all_cosines(subtests):
    generator = np.random.default_rng(3)
    vectors = generator.normal(size=(500, 512)).astype(np.float32) * generator.uniform(0.1, 10, (500, 1))
    vectors[7] = 0
    songs = songs_of(vectors)
    index = SongIndex(songs)
    blocks = [
        Songs(songs.paths[start : start + 70], vectors[start : start + 70], songs.is_silent[start : start + 70])
        for start in range(0, 500, 70)
    ]
    query = vectors[42] + generator.normal(size=512).astype(np.float32)
    cosines = cosine_similarity(query[None], vectors)[0]
    for count in (1, 10, 499, 500, 9000):
        with subtests.test(count=count):
            found = index.nearest(query, count)
            assert [one.path for one in found] == [f"{row}.mp3" for row in np.argsort(-cosines)[:count]]
            np.testing.assert_allclose([one.cosine for one in found], np.sort(cosines)[::-1][:count], atol=1e-6)
            in_blocks = nearest_in_blocks(blocks, [vectors[7], query], count)[1]
            assert [one.path for one in in_blocks] == [one.path for one in found]
    assert index.nearest(query, 1)[0].path == "42.mp3"


def test_ties_keep_the_order_of_the_index_and_an_empty_index_has_no_neighbours():
    same = songs_of(np.ones((4, 512), np.float32), ["a", "b", "c", "d"])
    assert [one.path for one in SongIndex(same).nearest(np.ones(512), 2)] == ["a", "b"]
    assert [one.path for one in nearest_in_blocks([same, same], [np.ones(512)], 6)[0]] == ["a", "b", "c", "d", "a", "b"]
    assert SongIndex(songs_of(np.zeros((0, 512), np.float32))).nearest(np.ones(512), 3) == []


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    model = tiny_model()
    return Encoder(model, model.clip_num_samples, model.sample_rate_hz)


@pytest.fixture
def songs(encoder, tmp_path, monkeypatch, capsys):
    """Three songs and their tables; the first two are the same melody at another level."""
    monkeypatch.setattr("clmr_tf.inference.encoder.load_encoder", lambda folder: encoder)
    for number, (seed, level) in enumerate([(1, 0.9), (1, 0.8), (5, 0.9)]):
        soundfile.write(tmp_path / f"song {number}.wav", level * melody(seed, 3 * RATE_HZ), RATE_HZ)
    for name in ("index.npz", "index"):
        assert run_command(embed.main, [str(tmp_path), "--out", str(tmp_path / name), "--hop-seconds", "0.1"]) == 0
    capsys.readouterr()
    return tmp_path


@pytest.mark.parametrize("table", ["index.npz", "index"])
def test_the_command_names_the_song_that_is_the_same_first_and_not_itself(songs, capsys, caplog, table):
    (songs / "bad.mp3").write_text("no music at all, but some words")
    files = [str(songs / "song 0.wav"), str(songs / "bad.mp3"), str(songs / "song 2.wav")]
    assert run_command(similar.main, [*files, "--index", str(songs / table)]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split("  ")[-1] for line in lines]
    # Those of the same melody first; of the other song both are neighbours, in whatever order.
    assert names[:3] == [files[0], str(songs / "song 1.wav"), files[2]]
    assert names[3] == files[2] and set(names[4:]) == {files[0], str(songs / "song 1.wav")}
    cosines = [float(line.split()[0]) for line in lines if line.startswith("  ")]
    assert cosines[0] > 0.999 > cosines[1] and cosines[2] >= cosines[3]
    assert "bad.mp3 is skipped: " in caplog.text


def test_a_song_by_another_name_is_not_its_own_neighbour(songs, capsys):
    (songs / "link.wav").symlink_to(songs / "song 0.wav")
    assert run_command(similar.main, [str(songs / "link.wav"), "--index", str(songs / "index.npz"), "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1] for line in lines] == [
        str(songs / name) for name in ("link.wav", "song 1.wav", "song 2.wav")
    ]


def test_a_table_of_another_model_is_refused(songs, monkeypatch, capsys):
    model = tiny_model()
    model.variables[0].assign_add(model.variables[0] * 0 + 1)
    other = Encoder(model, model.clip_num_samples, model.sample_rate_hz)
    monkeypatch.setattr("clmr_tf.inference.encoder.load_encoder", lambda folder: other)
    assert run_command(similar.main, [str(songs / "song 0.wav"), "--index", str(songs / "index.npz")]) == 2
    assert "was made with another model than savedmodels/music-small; give that model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "No song was given; give a file"),
        (["nowhere.mp3"], "nowhere.mp3: No such file or directory); give audio files"),
        (["song 0.wav", "--index", "no.npz"], "no.npz is not a readable table of embeddings"),
        (["song 0.wav", "--top", "0"], "--top must be at least 1; received 0"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(songs, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(songs)
    INCLUDED_MODEL.mkdir(parents=True, exist_ok=True)
    assert run_command(similar.main, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error
