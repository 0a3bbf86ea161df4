"""python -m clmr_tf.augment: the files that it writes and the errors that it reports."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from clmr_tf.augment.__main__ import main
from clmr_tf.augment.views import caption
from clmr_tf.console import run_command
from tests.clmr_tf.augment.golden import AUDIO, NUM_SAMPLES, RATE_HZ
from tests.sounds import tone, write_sound
from tests.strict_python import STRICT_PYTHON

SONG = str(AUDIO / "marine" / "industrial.ogg")


def read(folder, name):
    samples, rate_hz = soundfile.read(folder / name, dtype="float32")
    assert rate_hz == RATE_HZ and samples.shape == (NUM_SAMPLES,)
    return samples


def test_it_writes_sounds_parameters_and_a_picture(tmp_path):
    command = [*STRICT_PYTHON, "-m", "clmr_tf.augment", SONG, "--out", str(tmp_path / "deep" / "views")]
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [*command, "--num-views", "2"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    out = tmp_path / "deep" / "views"
    assert done.stdout.startswith("Wrote 2 crops and their views")
    assert (out / "views.png").read_bytes().startswith(b"\x89PNG")
    song, _ = soundfile.read(SONG, dtype="float32")
    record = json.loads((out / "views.json").read_text())
    for number, view in enumerate(record["views"], start=1):
        crop = read(out, f"crop-{number}.wav")
        np.testing.assert_allclose(crop, song[view["crop_first_sample"] :][:NUM_SAMPLES], atol=1e-6)
        assert view["crop_seconds"] == round(view["crop_first_sample"] / RATE_HZ, 3)
        assert np.array_equal(crop, read(out, f"view-{number}.wav")) == (not view["applied"])


def run(*arguments):
    return run_command(main, [str(argument) for argument in arguments])


def test_the_written_parameters_are_those_of_the_sounds(tmp_path, capsys):
    changes = ["--augmentation-changes", "gain.probability=1", "gain.gain_db=[-12, -12]"]
    assert run(SONG, "--out", tmp_path, "--num-views", 2, "--augmentation", "none", *changes) == 0
    record = json.loads((tmp_path / "views.json").read_text())
    assert [view["applied"] for view in record["views"]] == [{"gain": {"gain_db": -12.0}}] * 2
    for number in (1, 2):
        crop, view = read(tmp_path, f"crop-{number}.wav"), read(tmp_path, f"view-{number}.wav")
        np.testing.assert_allclose(view, crop * 10 ** (-12 / 20), rtol=1e-6)


def test_a_view_depends_on_the_seed_and_not_on_the_number_of_views(tmp_path, capsys):
    changes = ["--augmentation-changes", "gain.probability=1", "noise.probability=1"]
    for name, (num_views, seed) in {"one": (1, 5), "two": (2, 5), "other": (1, 6)}.items():
        options = ["--num-views", num_views, "--seed", seed, "--augmentation", "none", *changes]
        assert run(SONG, "--out", tmp_path / name, *options) == 0
    first, same, other = (read(tmp_path / name, "view-1.wav") for name in ("one", "two", "other"))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "No recording was given"),
        (("nowhere.mp3",), 1, "nowhere.mp3"),
        ((SONG, "--num-views", "0"), 2, "--num-views must be from 1 to 100; received 0."),
        ((SONG, "--seed", "-1"), 2, "--seed must be between 0 and 2147483647; received -1."),
        ((SONG, "--augmentation", "relased"), 2, "did you mean `released`?"),
        ((SONG, "--augmentation-changes", "pitch.cent=1"), 2, "did you mean `pitch.cents`?"),
        ((SONG, "--out", "file"), 2, "file is a file; choose another --out."),
        (
            (SONG, "--out", "file/views", "--augmentation", "none"),
            2,
            "file/views cannot be written (Not a directory); choose another --out.",
        ),
        ((SONG, "--out", ""), 2, "An argument is empty"),
        ((SONG, "--out="), 2, "An argument is empty"),
        (("",), 2, "An argument is empty"),
        (("short.wav",), 2, "short.wav is 1.00 s long, less than the 2.68 s of a clip; give a longer one."),
        (("letter.txt",), 1, "its content is text"),
    ],
)
def test_errors_are_one_sentence(tmp_path, monkeypatch, capsys, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("letter.txt").write_text("Dear sir")
    write_sound(Path("short.wav"), tone(440, 1, RATE_HZ), RATE_HZ, "WAV")
    assert run(*arguments) == code
    errors = capsys.readouterr().err
    assert words in errors and errors.count("\n") == 1
    assert not Path("views").exists()


@pytest.mark.parametrize("name", ["crop-2.wav", "view-1.wav", "views.json", "views.png"])
def test_a_folder_in_place_of_a_file_is_rejected_before_anything_is_written(tmp_path, capsys, name):
    (tmp_path / name).mkdir()
    assert run(SONG, "--out", tmp_path, "--num-views", 2) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / name} is a folder; move it away or choose another --out.\n"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.soak
def test_sounds_of_an_earlier_run_with_more_views_are_removed(tmp_path, capsys):
    assert run(SONG, "--out", tmp_path, "--num-views", 3, "--augmentation", "none") == 0
    others = ["view-03.wav", "view-3.wav.bak", "view-4.flac", "view-101.wav", "preview-3.wav", "notes.txt"]
    for name in others:
        (tmp_path / name).write_text("mine")
    (tmp_path / "view-5.wav").mkdir()
    assert run(SONG, "--out", tmp_path, "--num-views", 1, "--augmentation", "none") == 0
    written = ["crop-1.wav", "view-1.wav", "views.json", "views.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, *written, "view-5.wav"])


def test_captions_of_noise(tmp_path, capsys):
    changes = ["--augmentation-changes", "noise.probability=1", "noise.noise_to_signal=[0, 0]"]
    assert run(SONG, "--out", tmp_path, "--num-views", 1, "--augmentation", "none", *changes) == 0
    (view,) = json.loads((tmp_path / "views.json").read_text())["views"]
    assert view["applied"] == {"noise": {"noise_to_signal": 0.0}}
    assert caption(view["applied"]) == "no noise"
    assert caption({"noise": {"noise_to_signal": 0.01}, "pitch": {"cents": -70.0}}) == "noise -40 dB, pitch -70 cents"


def test_a_cutoff_above_half_the_sample_rate_is_rejected(tmp_path, capsys):
    changes = ["--augmentation-changes", "filter.lowpass_cutoff_hz=[2200, 4001]"]
    assert run(SONG, "--out", tmp_path / "out", "--sample-rate-hz", 8000, *changes) == 2
    assert "at most half the sample rate, 4000 Hz; received 4001 Hz" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_silent_recording_is_reported(tmp_path, capsys):
    write_sound(tmp_path / "silent.wav", np.zeros(3 * RATE_HZ, np.float32), RATE_HZ, "WAV")
    arguments = [
        tmp_path / "silent.wav",
        "--out",
        tmp_path / "out",
        "--num-views",
        1,
        "--augmentation",
        "only-polarity",
    ]
    assert run(*arguments) == 0
    assert "silent.wav is silent." in capsys.readouterr().err.replace("\n", " ")
    record = json.loads((tmp_path / "out" / "views.json").read_text())
    assert record["is_silent"] and record["views"][0]["applied"] == {"polarity": {}}
