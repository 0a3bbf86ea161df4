"""The included model is small, documents its origin, and tells unknown music apart better than without training."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

import clmr_tf
from clmr_tf.export.model_folder import read_manifest
from clmr_tf.inference.encoder import Encoder
from clmr_tf.inference.tensorflow_encoder import tensorflow_encoder
from clmr_tf.models.encoders import build_encoder
from pipelines.debian_games import read_tracks

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "savedmodels" / "music-small"
AUDIO = ROOT / "pipelines" / "demo_data"
LICENCES = {"CC-BY-3.0", "CC-BY-SA-3.0", "MIT", "public-domain"}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return clmr_tf.load_encoder(FOLDER, check=True)


def test_it_is_small_and_documents_its_origin():
    num_bytes = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    assert num_bytes <= 12e6
    manifest, card = read_manifest(FOLDER), (FOLDER / "README.md").read_text(encoding="utf-8")
    # Every recording of every package is under one of them, or under several of which one is.
    listed = manifest["training"]["run"]["corpus"]["description"].partition("licences: ")[2]
    licences = re.findall(r"\d+ ([\w.+ -]+)", re.sub(r"[\w.+-]+: ", "", listed))
    assert len(licences) > 10
    for licence in licences:
        assert LICENCES & set(licence.split(" or ")), licence
    assert manifest["licence"] == "CC-BY-SA-3.0" and "warzone2100-music" in card
    assert all(tag in card for tag in manifest["tag_names"])


def test_it_has_the_settings_of_the_makefile():
    config = read_manifest(FOLDER)["training"]["config"]
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nsmall-model:")[2].partition("\n\n")[0]
    training = recipe.partition("-m clmr_tf.train ")[2].partition("clmr_tf.export")[0]
    options = dict(re.findall(r"--([a-z-]+) ([\w./-]+)", training))
    assert len(options) > 8
    for option, value in options.items():
        assert type(config[option.replace("-", "_")])(value) == config[option.replace("-", "_")], option


def test_its_card_compares_it_with_other_features_and_says_what_its_tags_are():
    scores = {
        name.removeprefix("debian-games-medium-selection-"): s for name, s in read_manifest(FOLDER)["scores"].items()
    }
    tasks = ("artist", "soundtrack")
    assert set(scores) == {
        *("pseudo-tags-standard-linear", "retrieval"),
        *(f"{task}-standard-linear{suffix}" for task in tasks for suffix in ("", "-similar")),
    }
    for score in scores.values():
        assert set(score["differences"]) == {"untrained", "mel", "musicnn"}
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "as the model MTT_musicnn predicts them; no person has tagged this music" in card
    assert card.count("precision at 10 of similar songs") == 2
    assert re.search(r"\| `model.tflite` \| [\d.]+ ms \| [\d,]+ \|", card)


def fraction_of_found_halves(encoder: Encoder, files: list[Path]) -> float:
    """How often the second half of a recording is the most similar one to its first half."""
    vectors = [encoder.embed(file).vectors for file in files]
    halves = np.array([[part.mean(axis=0) for part in np.array_split(rows, 2)] for rows in vectors])
    halves = (halves - halves.mean(axis=(0, 1))) / (halves.std(axis=(0, 1)) + 1e-6)
    return float(np.mean(cosine_similarity(*halves.swapaxes(0, 1)).argmax(axis=1) == np.arange(len(files))))


def test_it_recognises_recordings_that_it_never_heard_better_than_its_untrained_network(encoder):
    heard = {track.package for track in read_tracks()}
    with (AUDIO / "tracks.csv").open(encoding="utf-8", newline="") as file:
        files = [AUDIO / track["file"] for track in csv.DictReader(file) if track["package"] not in heard]
    assert len(files) == 49
    untrained = build_encoder("mel_cnn", width=0.25, seed=1)
    found = fraction_of_found_halves(encoder, files)
    assert found > 0.85
    assert found > fraction_of_found_halves(tensorflow_encoder(untrained), files)
