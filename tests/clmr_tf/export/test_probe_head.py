"""A head that was trained on an exported model becomes part of it."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.errors import UsageError
from clmr_tf.export import __main__ as export
from clmr_tf.export.keras_model import read_encoder
from clmr_tf.export.model_folder import read_head, read_manifest
from clmr_tf.export.writing import read_probe_head
from clmr_tf.inference.encoder import load_encoder
from clmr_tf.models.encoders import build_encoder
from clmr_tf.models.heads import Head
from clmr_tf.probe import __main__ as probe
from tests.clmr_tf.probed import TAGS, write_corpus_with_tasks


@pytest.fixture(scope="module")
def probed(tmp_path_factory, exported_folder):
    """A model folder with the result of a probe and its head."""
    folder = tmp_path_factory.mktemp("probed")
    model, corpus = shutil.copytree(exported_folder, folder / "tiny"), write_corpus_with_tasks(folder / "songs")
    options = ["--model", model, "--corpus", corpus.folder, "--preset", "thesis", "--features-cache", folder / "cache"]
    probe.main([str(option) for option in options])
    return model


def test_the_export_gives_the_tags_of_the_probe_and_keeps_its_result(probed, tmp_path):
    model = shutil.copytree(probed, tmp_path / "tiny")
    result_file = model / "evaluation-songs-thesis-linear.json"
    before = {path.name: path.read_bytes() for path in model.glob("evaluation-*")}
    assert set(before) == {result_file.name, "evaluation-songs-thesis-linear.npz"}
    export.main(["--model", str(model), "--head", str(result_file)])
    manifest = read_manifest(model)
    assert manifest["tag_names"] == list(TAGS) and manifest["single_label"]
    # What was scored is still true: the weights are the same.
    assert {path.name: path.read_bytes() for path in model.glob("evaluation-*")} == before
    assert "songs-thesis-linear" in manifest["scores"]
    result = json.loads(result_file.read_text())
    head = manifest["head"]
    assert head["result"] == result_file.name and head["test"] == result["scores"]["test"]
    assert head["corpus"] == {"name": "songs", "fingerprint": result["corpus"]["fingerprint"]}
    assert head["preset"] == "thesis" and head["seed"] == 42 and "task" not in head
    for name in ("protocol", "labels", "fit"):
        assert head[name] == result[name]
    card = (model / "README.md").read_text(encoding="utf-8")
    assert "preset `thesis`, linear, seed 42, with the labels of 14 clips of 14 songs of the corpus songs" in card
    accuracy = head["test"]["accuracy"]["mean"]
    assert f"| accuracy | {accuracy:.3f} | " in card.partition("## Tag head")[2].partition("##")[0]
    clips = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 59_049)).astype(np.float32)
    saved = tf.saved_model.load(str(model / "saved_model"))
    tags = saved.signatures["serving_default"](audio=tf.constant(clips))["tags"].numpy()
    logits = read_head(model).logits(load_encoder(model).encode_clips(clips))
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(tags, softmax, atol=1e-6)
    own = ["--model", str(model), "--corpus", str(probed.parent / "songs"), "--preset", "released", "--head", "own"]
    with pytest.raises(
        UsageError, match="was trained on frozen embeddings and added later, so it is not the model's own"
    ):
        probe.main(own)


def test_the_export_gives_taught_tags(exported_folder, tmp_path):
    model = shutil.copytree(exported_folder, tmp_path / "tiny")
    encoder = load_encoder(model)
    generator = np.random.default_rng(1)
    heads = {name: (generator.normal(size=512) / 20, bias) for name, bias in (("soft | slow", -0.5), ("bright", 0.25))}
    answers = [{"path": "/a.mp3", "answer": "yes", "seconds": None}, {"path": "/b.mp3", "answer": "no", "seconds": 3.5}]
    precision = {"estimate": 0.8, "low": 0.5, "high": 0.9, "num_marks": 7}
    tags = {
        name: {"changes": [answers], "head": {"weights": weights.tolist(), "bias": bias}, "precision": precision}
        for name, (weights, bias) in heads.items()
    }
    # A tag that was never marked as yes has no head.
    tags["empty"] = {"changes": [answers[1:]], "head": None, "precision": None}
    # A table of the same model in 8-bit integers.
    plain = {"format_version": 1, "model_hash": f"{encoder.model_hash}-int8", "tags": tags}
    file = tmp_path / "music.tags.json"
    file.write_text(json.dumps(plain))
    export.main(["--model", str(model), "--head", str(file)])
    manifest = read_manifest(model)
    assert manifest["tag_names"] == ["bright", "soft | slow"] and not manifest["single_label"]
    clips = generator.uniform(-0.5, 0.5, (2, 59_049)).astype(np.float32)
    saved = tf.saved_model.load(str(model / "saved_model"))
    received = saved.signatures["serving_default"](audio=tf.constant(clips))["tags"].numpy()
    vectors = encoder.encode_clips(clips)
    expected = [1 / (1 + np.exp(-(vectors @ heads[name][0] + heads[name][1]))) for name in manifest["tag_names"]]
    np.testing.assert_allclose(received, np.transpose(expected), atol=1e-6)
    card = (model / "README.md").read_text(encoding="utf-8")
    assert "| soft &#124; slow | 1 | 1 | 0.80 | 0.50 to 0.90 |" in card
    file.write_text(json.dumps(plain | {"model_hash": "other"}))
    with pytest.raises(UsageError, match="were taught with other weights; export the model of their table"):
        export.main(["--model", str(model), "--head", str(file)])
    file.write_text(json.dumps(plain | {"tags": {"empty": tags["empty"]}}))
    with pytest.raises(UsageError, match="has no tag with a song that it fits"):
        export.main(["--model", str(model), "--head", str(file)])


def test_other_heads_are_refused(probed, tmp_path):
    result_file = probed / "evaluation-songs-thesis-linear.json"
    with pytest.raises(UsageError, match="was trained on features of model with other weights; give the evaluation"):
        read_probe_head(result_file, build_encoder(width=0.0625, seed=9))
    model = read_encoder(probed)
    with pytest.raises(UsageError, match="is not the result of a probe"):
        read_probe_head(probed / "manifest.json", model)
    copied = tmp_path / result_file.name
    shutil.copyfile(result_file, copied)
    with pytest.raises(UsageError, match=r"The head .*\.npz cannot be read .*; run the probe again"):
        read_probe_head(copied, model)
    for features, tags in ((512, 2), (13, 3)):
        weights = np.zeros((features, tags)), np.zeros(tags)
        Head(np.zeros(features), np.ones(features), weights).save(copied.with_suffix(".npz"))
        with pytest.raises(UsageError, match="does not belong to"):
            read_probe_head(copied, model)
    copied.with_suffix(".npz").write_bytes(b"")
    with pytest.raises(UsageError, match=r"The head .*\.npz cannot be read .*; run the probe again"):
        read_probe_head(copied, model)
    result = json.loads(copied.read_text())
    result["features"]["kind"] = "mel"
    copied.write_text(json.dumps(result))
    with pytest.raises(UsageError, match="was trained on features of mel"):
        read_probe_head(copied, model)
