"""Tags of songs, against a head computed by hand, and the picture of them over time."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import soundfile

from clmr_tf import tag
from clmr_tf.config.command_line import INCLUDED_MODEL
from clmr_tf.console import run_command
from clmr_tf.errors import UsageError
from clmr_tf.inference.encoder import Encoder, Tagger, Tagging, load_encoder
from clmr_tf.inference.taggram import draw_taggram, minutes_and_seconds, taggram_figure
from tests.clmr_tf.exported import TAGS, tags_by_definition
from tests.clmr_tf.probed import CLIP, tiny_model
from tests.synthetic import melody, write_music

RATE_HZ = 22_050
NAMES = ("rock", "slow $4$", "harp")


def test_a_model_with_a_head_tags_every_window(exported_folder):
    encoder = load_encoder(exported_folder)
    song = melody(3, 4 * RATE_HZ)
    tagging = encoder.tag(song, hop_seconds=0.5)
    vectors = encoder.embed(song, hop_seconds=0.5).vectors
    expected = tags_by_definition(exported_folder / "head.npz", False, vectors)
    np.testing.assert_allclose(tagging.probabilities, expected, atol=1e-5)
    np.testing.assert_allclose(tagging.times_seconds, [0, 0.5, 1])
    means = dict(zip(TAGS, expected.mean(axis=0), strict=True))
    assert tagging.top(2) == [
        (name, pytest.approx(means[name], abs=1e-5)) for name in sorted(means, key=means.get, reverse=True)[:2]
    ]


def test_a_model_without_a_head_says_so():
    model = tiny_model()
    with pytest.raises(UsageError, match="The model has no tags; export it with `--head"):
        Encoder(model, CLIP, RATE_HZ).tag(melody(3, 4 * RATE_HZ))


def known_tagging() -> Tagging:
    probabilities = np.array([[0.1, 0.9, 0.5], [0.2, 0.7, 0.5], [0.0, 0.8, 0.6]], np.float32)
    return Tagging(np.array([0.0, 1.0, 2.0]), NAMES, probabilities)


def test_the_picture_has_the_likeliest_tag_on_top_and_each_window_at_its_time():
    figure = taggram_figure(known_tagging(), 3.0, 2, "Song")
    axes = figure.axes[0]
    mesh = axes.collections[0]
    np.testing.assert_allclose(mesh.get_array(), [[0.9, 0.7, 0.8], [0.5, 0.5, 0.6]], rtol=1e-6)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["slow $4$", "harp"]
    assert axes.yaxis_inverted() and mesh.get_clim() == pytest.approx((0, 0.9))
    # Windows of 3 seconds, of which one begins every second: the middle of the first is at 1.5.
    edges = mesh.get_coordinates()[0, :, 0]
    np.testing.assert_allclose(edges, [1, 2, 3, 4])
    plt.close(figure)
    assert draw_taggram(known_tagging(), 3.0, 2, "Song") == draw_taggram(known_tagging(), 3.0, 2, "Song")
    assert [minutes_and_seconds(seconds) for seconds in (0, 59.9, 75.4, 3600)] == ["0:00", "0:59", "1:15", "60:00"]


@pytest.fixture
def tagging_encoder(monkeypatch):
    """An encoder whose tags are those of its loudest dimension: of any file the same three numbers."""
    model = tiny_model()
    tagger = Tagger(NAMES, lambda vectors: np.tile(np.array([[0.25, 0.5, 0.125]], np.float32), (len(vectors), 1)))
    encoder = Encoder(model, CLIP, RATE_HZ, tagger=tagger)
    monkeypatch.setattr("clmr_tf.inference.encoder.load_encoder", lambda folder: encoder)
    return encoder


def test_the_command(tagging_encoder, tmp_path, capsys, caplog):
    write_music(tmp_path / "songs", 2)
    soundfile.write(tmp_path / "songs" / "x short.wav", melody(1, RATE_HZ), RATE_HZ)
    (tmp_path / "songs" / "y bad.mp3").write_text("no music at all, but some words")
    assert run_command(tag.main, [str(tmp_path / "songs"), "--top", "2"]) == 0
    songs, tags = tmp_path / "songs", ["  0.500  slow $4$", "  0.250  rock"]
    assert capsys.readouterr().out.splitlines() == [
        *(f"{songs / 'song 0.wav'} (0:04)", *tags),
        *(f"{songs / 'song 1.flac'} (0:04)", *tags),
        *(f"{songs / 'x short.wav'} (0:01, shorter than a window)", *tags),
    ]
    assert "y bad.mp3 is skipped: " in caplog.text
    assert run_command(tag.main, [str(songs / "y bad.mp3")]) == 1
    assert "None of the 1 files could be used as audio" in capsys.readouterr().err
    plot = tmp_path / "taggram.png"
    assert run_command(tag.main, [str(songs / "song 0.wav"), "--plot", str(plot), "--hop-seconds", "0.5"]) == 0
    assert f"Tags over time: {plot}" in capsys.readouterr().out
    assert plt.imread(plot).shape[2] == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "No music was given; give files or folders"),
        (["nowhere.mp3"], "nowhere.mp3: No such file or directory); give audio files"),
        (["x.wav", "--top", "0"], "--top must be at least 1; received 0"),
        (["x.wav", "--plot", "x.jpg"], "--plot must be a file that ends in .png; received x.jpg"),
        (["x.wav", "--plot", "no/x.png"], "no/x.png cannot be written; give --plot a file in an existing folder"),
        ([".", "--plot", "x.png"], "--plot needs a single song; received 2 files"),
        (["x.wav", "--hop-seconds", "0"], "The hop must be at least one sample, and finite; received 0.0 seconds"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(tagging_encoder, tmp_path, monkeypatch, capsys, arguments, words):
    for name in ("x.wav", "y.wav"):
        soundfile.write(tmp_path / name, melody(1, RATE_HZ), RATE_HZ)
    monkeypatch.chdir(tmp_path)
    INCLUDED_MODEL.mkdir(parents=True, exist_ok=True)
    assert run_command(tag.main, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error
