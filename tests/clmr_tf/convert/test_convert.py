"""`python -m clmr_tf.convert`: from checkpoints of the original to model folders and back."""

import hashlib
import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from clmr_tf.console import run_command
from clmr_tf.convert import translation as conversion
from clmr_tf.convert.__main__ import main
from clmr_tf.convert.reader import read_checkpoint
from clmr_tf.convert.translation import state_dict_bytes
from clmr_tf.data.labels import MAGNATAGATUNE_TAGS, MSD_TAGS
from clmr_tf.export.keras_model import read_projector
from clmr_tf.export.model_folder import read_head, read_manifest, relative_error
from clmr_tf.inference.encoder import load_encoder
from clmr_tf.models.heads import Head
from clmr_tf.probe.evaluation import probe_model
from clmr_tf.probe.settings import ProbeConfig
from clmr_tf.report.results import read_result
from tests.clmr_tf.convert.state_dicts import audio, encoder, mlp_head, prefixed, projector
from tests.clmr_tf.probed import only_default_signature
from tests.synthetic import synthetic_corpus

PLAIN = prefixed("encoder.", encoder()) | prefixed("projector.", projector())
CHECKPOINTS = os.environ.get("CLMR_TF_PYTORCH_CHECKPOINTS")


def convert(*arguments: object) -> int:
    return run_command(main, [str(argument) for argument in arguments])


def test_the_model_gives_what_pytorch_gives(converted, expected):
    h = load_encoder(converted, check=True).encode_clips(audio(22050))
    assert relative_error(h, expected["h_22050"]) < 1e-5
    assert relative_error(read_projector(converted)(h).numpy(), expected["z"]) < 1e-5
    assert relative_error(read_head(converted).logits(h), expected["mlp_logits"]) < 1e-5
    with np.load(converted / "golden.npz") as golden:
        assert {name: golden[name].shape for name in golden if name != "audio"} == {
            "embedding": (2, 512),
            "logits": (2, 50),
            "projection": (2, 64),
        }


def test_the_manifest_names_the_checkpoint(converted):
    manifest = read_manifest(converted)
    checkpoint = (converted.parent / "clmr.ckpt").read_bytes()
    origin = manifest["training"]["converted_from"]
    assert origin["checkpoint"] == {"file": "clmr.ckpt", "sha256": hashlib.sha256(checkpoint).hexdigest()}
    assert origin["head"]["file"] == "finetuner.pt" and origin["layout"] == "model.encoder.sequential.*"
    assert (origin["epoch"], origin["global_step"], manifest["training"]["step"]) == (3, 12, 12)
    assert manifest["tag_names"] == list(MAGNATAGATUNE_TAGS) and manifest["licence"] == "Apache-2.0"
    assert "The checkpoint records: epoch 3, step 12, Lightning " in (converted / "README.md").read_text(
        encoding="utf-8"
    )
    assert manifest["architecture"]["arguments"] == {"width": 0.0625, "sample_rate_hz": 22050}


def test_the_probe_scores_a_converted_head(converted, tmp_path):
    num_songs = {"train": 2, "valid": 2, "test": 60}
    corpus = synthetic_corpus(tmp_path / "corpus", num_songs=num_songs, tag_names=MAGNATAGATUNE_TAGS)
    config = ProbeConfig(
        converted, str(corpus.folder), preset="released", head="own", features_cache=tmp_path / "cache"
    )
    result, _ = probe_model(config)
    assert result["objective"] == "converted" and result["labels"]["choice"] == "all"
    assert result["labels"]["num_clips"] == 2 and len(result["labels"]["tags_without_positives"]) == 48
    (tmp_path / "evaluation.json").write_text(json.dumps(result))
    assert read_result(tmp_path / "evaluation.json", "evaluation.json").name == "CLMR converted, its own head"


def test_conversion_back_to_pytorch_gives_the_same_network(converted, tmp_path, caplog):
    assert convert("--to-pytorch", converted, "--out", tmp_path / "back.ckpt") == 0
    assert "only SampleCNN of width 1, but this one has width 0.0625" in caplog.text
    tensors = read_checkpoint(tmp_path / "back.ckpt").tensors
    for key, tensor in (PLAIN | prefixed("model.", mlp_head())).items():
        if key.endswith(("0.weight", "1.weight", "2.weight", "running_var")) or not key.startswith("encoder."):
            np.testing.assert_array_equal(tensors[key], tensor, err_msg=key)
    # The bias has gone into the mean.
    key = "encoder.sequential.4."
    assert not tensors[f"{key}0.bias"].any()
    mean = PLAIN[f"{key}1.running_mean"].astype(float) - PLAIN[f"{key}0.bias"].astype(float)
    np.testing.assert_array_equal(tensors[f"{key}1.running_mean"], np.float32(mean))
    assert tensors[f"{key}1.num_batches_tracked"] == 12
    assert [path.name for path in tmp_path.iterdir()] == ["back.ckpt"]


def test_an_encoder_without_heads_is_converted_back(converted, tmp_path):
    model = Path(shutil.copytree(converted, tmp_path / "model"))
    for name in ("head.npz", "projector.npz"):
        (model / name).unlink()
    assert convert("--to-pytorch", model, "--out", tmp_path / "back.pt") == 0
    assert read_checkpoint(tmp_path / "back.pt").tensors.keys() == prefixed("encoder.", encoder()).keys()


def test_a_model_that_differs_from_the_recorded_outputs_is_not_written(tmp_path, capfd, expected):
    (tmp_path / "clmr.pt").write_bytes(state_dict_bytes(PLAIN))
    wrong = expected["h_22050"].copy()
    wrong[1, 7] += 2e-4 * wrong.max()
    arguments = "--from-pytorch", tmp_path / "clmr.pt", "--out", tmp_path / "model", "--golden"
    for h, words in ((wrong, "differs in `h` from"), (np.full_like(wrong, np.nan), "is not finite (NaN or infinite)")):
        np.savez(tmp_path / "golden.npz", audio=audio(22050), h=h)
        assert convert(*arguments, tmp_path / "golden.npz") == 1
        assert words in capfd.readouterr().err
    np.savez(tmp_path / "golden.npz", audio=audio(22050), h=wrong[:1])
    assert convert(*arguments, tmp_path / "golden.npz") == 2
    np.savez(tmp_path / "golden.npz", audio=audio(22050)[:, :-1], h=wrong)
    assert convert(*arguments, tmp_path / "golden.npz") == 2
    assert convert(*arguments, tmp_path / "clmr.pt") == 2
    np.savez(tmp_path / "golden.npz", audio=audio(22050), logits=np.zeros((2, 50)))
    assert convert(*arguments, tmp_path / "golden.npz") == 2
    assert "has none of the model's outputs h, z" in capfd.readouterr().err
    assert not (tmp_path / "model").exists()


def test_a_wrong_conversion_is_not_written(tmp_path, capfd, monkeypatch):
    (tmp_path / "clmr.pt").write_bytes(state_dict_bytes(PLAIN))

    def without_bias(network):
        model = to_encoder(network)
        model.normalizations[5].moving_mean.assign(network.layers[5].mean)
        return model

    to_encoder = conversion.to_encoder
    # An easy mistake.
    monkeypatch.setattr(conversion, "to_encoder", without_bias)
    assert convert("--from-pytorch", tmp_path / "clmr.pt", "--out", tmp_path / "model") == 1
    assert "differs in `h` from the original network by" in capfd.readouterr().err
    assert not (tmp_path / "model").exists()


def test_a_damaged_model_is_not_written_as_a_checkpoint(converted, tmp_path, capfd):
    with np.load(converted / "golden.npz") as golden:
        numbers = dict(golden)
    whole = (converted / "golden.npz").read_bytes()
    try:
        np.savez(converted / "golden.npz", **{**numbers, "projection": numbers["projection"] * 1.001})
        assert convert("--to-pytorch", converted, "--out", tmp_path / "back.ckpt") == 1
        assert "differs in `z` from" in capfd.readouterr().err
        (converted / "golden.npz").write_bytes(whole[:100])
        assert convert("--to-pytorch", converted, "--out", tmp_path / "back.ckpt") == 2
    finally:
        (converted / "golden.npz").write_bytes(whole)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("hidden_units", [[256], [512, 512]])
def test_a_head_that_the_released_code_cannot_build_is_refused(converted, tmp_path, capfd, hidden_units):
    sizes = [512, *hidden_units, 50]
    parts = [np.zeros(shape, np.float32) for pair in itertools.pairwise(sizes) for shape in (pair, pair[1:])]
    model = Path(shutil.copytree(converted, tmp_path / "model"))
    Head(np.zeros(512, np.float32), np.ones(512, np.float32), tuple(parts)).save(model / "head.npz")
    with np.load(converted / "golden.npz") as golden:
        np.savez(model / "golden.npz", **{**golden, "logits": np.zeros((2, 50), np.float32)})
    assert convert("--to-pytorch", model, "--out", tmp_path / "back.pt") == 2
    sentence = " ".join(capfd.readouterr().err.split())
    assert f"The head of the model in {model} has hidden layers of {hidden_units} units" in sentence
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Give either --from-pytorch CHECKPOINT or --to-pytorch MODEL-FOLDER"),
        (["--from-pytorch", "a", "--to-pytorch", "b"], "Give either"),
        (["--from-pytorch", "a"], "Give --out"),
        (["--from-pytorch", "gone.pt", "--out", "model"], "gone.pt cannot be read"),
        (["--from-pytorch", ".", "--out", "model"], "cannot be read (Is a directory)"),
        (["--to-pytorch", "gone", "--out", "a.pt"], "gone is not a model folder"),
        (["--to-pytorch", "gone", "--out", "a.pt", "--tags", "msd"], "--tags has no effect with --to-pytorch"),
        (["--to-pytorch", "gone", "--out", "a.pt", "--licence", "MIT"], "--licence has no effect with --to-pytorch"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments, sentence, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert convert(*arguments) == 2
    assert sentence in capfd.readouterr().err


@pytest.mark.parametrize(
    ("tags", "num_tags", "expected_names"),
    [
        (None, 50, MAGNATAGATUNE_TAGS),
        ("msd", 50, MSD_TAGS),
        ("names.txt", 3, ("one", "two words", "three")),
        (None, 10, "The head has 10 outputs with unknown names"),
        ("msd", 10, "has 50 names, 50 of them different, and the head has 10"),
        ("twice.txt", 2, "has 2 names, 1 of them different"),
        ("gone.txt", 2, "--tags gone.txt cannot be read"),
    ],
)
def test_names_of_the_tags(tags, num_tags, expected_names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("one\n two words\n\nthree\n")
    Path("twice.txt").write_text("one\none\n")
    if isinstance(expected_names, tuple):
        assert conversion._tag_names(tags, num_tags) == expected_names
    else:
        with pytest.raises(conversion.UsageError, match=expected_names):
            conversion._tag_names(tags, num_tags)


@pytest.mark.soak
def test_every_path_may_begin_with_a_tilde(converted, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(converted.parent))
    (converted.parent / "names.txt").write_text("\n".join(MSD_TAGS))
    options = "--head", "~/finetuner.pt", "--golden", "~/golden.npz", "--tags", "~/names.txt"
    with only_default_signature():
        assert convert("--from-pytorch", "~/clmr.ckpt", "--out", tmp_path / "model", *options) == 0
    assert read_manifest(tmp_path / "model")["tag_names"] == list(MSD_TAGS)
    assert read_manifest(tmp_path / "model")["licence"] == "unspecified"
    assert convert("--to-pytorch", tmp_path / "model", "--out", "~/back.pt") == 0
    (converted.parent / "back.pt").unlink()


@pytest.mark.skipif(not CHECKPOINTS, reason="CLMR_TF_PYTORCH_CHECKPOINTS does not name the folder of the checkpoints")
@pytest.mark.parametrize("name", ["reference_lightning.ckpt", "reference_plain.pt"])
def test_checkpoints_of_the_original_at_full_width(name, tmp_path):
    golden = Path(CHECKPOINTS) / "reference_sample_cnn.npz"
    arguments = "--from-pytorch", Path(CHECKPOINTS) / name, "--golden", golden
    assert convert(*arguments, "--out", tmp_path / "model") == 0
    assert convert("--to-pytorch", tmp_path / "model", "--out", tmp_path / "back.pt") == 0
    with np.load(golden) as file:
        h = load_encoder(tmp_path / "model").encode_clips(file["audio"])
        assert relative_error(h, file["h"]) < 1e-5
