"""The included demo model is small, complete, and better than chance on unseen music of its composers."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

import clmr_tf
from clmr_tf.export.model_folder import read_manifest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "savedmodels" / "demo"
AUDIO = ROOT / "pipelines" / "demo_data"


@pytest.fixture(scope="module")
def encoder():
    return clmr_tf.load_encoder(FOLDER, check=True)


def test_demo_model_is_small_and_documents_its_origin():
    num_bytes = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    assert num_bytes <= 12e6
    manifest, card = read_manifest(FOLDER), (FOLDER / "README.md").read_text(encoding="utf-8")
    assert manifest["training"]["run"]["corpus"]["name"] == "demo" and manifest["licence"] == "CC-BY-SA-3.0"
    assert manifest["training"]["config"]["workdir"] == "runs/demo"
    assert "CC-BY-SA-3.0" in card and all(tag in card for tag in manifest["tag_names"])


def test_demo_model_has_the_settings_of_the_makefile():
    config = read_manifest(FOLDER)["training"]["config"]
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\ndemo-model:")[2].partition("\n\n")[0]
    options = dict(re.findall(r"--([a-z-]+) ([\w./-]+)", recipe.partition("clmr_tf.export")[0]))
    assert options.pop("corpus") == config["corpus"]
    for option, value in options.items():
        assert type(config[option.replace("-", "_")])(value) == config[option.replace("-", "_")], option


def test_demo_model_recognizes_composers_better_than_chance(encoder):
    with (AUDIO / "tracks.csv").open(encoding="utf-8", newline="") as file:
        tracks = list(csv.DictReader(file))
    # Two songs of each of the eleven composers, not used for training.
    unheard = [track for track in tracks if track["split"] == "test"]
    assert len(unheard) == 22 and {track["class"] for track in unheard} == set(encoder.tagger.tag_names)
    guesses = [encoder.tag(AUDIO / track["file"]) for track in unheard]
    np.testing.assert_allclose(guesses[0].probabilities.sum(axis=1), 1, rtol=1e-5)
    num_correct = sum(guess.top(1)[0][0] == track["class"] for guess, track in zip(guesses, unheard, strict=True))
    # Two correct guesses are expected by chance.
    assert num_correct >= 10
