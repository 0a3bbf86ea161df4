"""Exported models: whole, checked, loadable without this package, refused when they are not right."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import clmr_tf.export.writing as module
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.export.model_folder import check_golden, read_encoder, read_manifest, record_score
from clmr_tf.export.writing import golden_audio, write_model_folder
from clmr_tf.inference.encoder import load_encoder
from clmr_tf.models.sample_cnn import SampleCNN
from tests.synthetic import write_corpus

LABELS = {"tag_names": [], "single_label": False}
FACTS = {"name": "tiny", "licence": "CC0-1.0", "scores": {}, "training": {"step": 3}, **LABELS}


def make_encoder(**arguments) -> SampleCNN:
    encoder = SampleCNN(**{"width": 0.0625, "seed": 2, **arguments})
    encoder.build()
    for normalization in encoder.normalizations:
        normalization.moving_mean.assign(np.random.default_rng(0).uniform(-0.2, 0.2, normalization.beta.shape))
    return encoder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("savedmodels") / "tiny"
    encoder = make_encoder()
    write_model_folder(encoder, folder, FACTS)
    return folder, encoder


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of the export, to change."""
    return Path(shutil.copytree(exported[0], tmp_path / "model"))


def test_holds_what_was_promised(exported):
    folder, encoder = exported
    names = {path.name for path in folder.iterdir()}
    assert names == {"saved_model", "encoder.weights.h5", "manifest.json", "golden.npz", "README.md"}
    manifest = read_manifest(folder)
    assert manifest["input"] == {"name": "audio", "clip_num_samples": 59049, "sample_rate_hz": 22050, "channels": 1}
    assert manifest["licence"] == "CC0-1.0" and manifest["training"] == {"step": 3}
    # Every variable once.
    num_bytes = sum(path.stat().st_size for path in (folder / "saved_model" / "variables").iterdir())
    assert num_bytes < 4 * encoder.count_params() + 20_000


def test_the_saved_model_runs_without_this_package(exported, tmp_path):
    folder, encoder = exported
    code = f"""
import sys
import numpy as np, tensorflow as tf
serve = tf.saved_model.load({str(folder / "saved_model")!r}).signatures["serving_default"]
audio = np.load({str(folder / "golden.npz")!r})["audio"]
out = serve(audio=tf.constant(np.concatenate([audio, audio[:1]])))
assert list(out) == ["embedding"]
assert "clmr_tf" not in sys.modules
np.save("out.npy", out["embedding"].numpy())
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    received = np.load(tmp_path / "out.npy")
    audio = golden_audio(59049, 22050)
    expected = encoder(np.concatenate([audio, audio[:1]])).numpy()
    assert received.shape == (3, 512) and expected.std() > 1e-3
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-6)


def test_the_weights_make_the_same_encoder(exported):
    folder, encoder = exported
    audio = golden_audio(59049, 22050)
    np.testing.assert_allclose(read_encoder(folder)(audio).numpy(), encoder(audio).numpy(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        load_encoder(folder, check=True).encode_clips(audio), encoder(audio).numpy(), rtol=1e-4, atol=1e-6
    )


def test_golden_audio_is_loud_exact_in_16_bits_and_reaches_all_frequencies():
    audio = golden_audio(59049, 22050)
    np.testing.assert_array_equal(audio, np.round(audio * 32768) / 32768)
    assert np.abs(audio).max() < 1 and np.all(audio.std(axis=1) > 0.05)
    spectrum = np.abs(np.fft.rfft(audio[0])) ** 2
    octaves = [spectrum[int(f * 59049 / 22050) : int(2 * f * 59049 / 22050)].sum() for f in (100, 1000, 4000)]
    assert min(octaves) > 0.05 * max(octaves)


def test_a_folder_that_fails_its_golden_numbers_is_never_put_in_place(folder, tmp_path, monkeypatch):
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    write = module._write

    def write_damaged(encoder, draft, *parts):
        write(encoder, draft, *parts)
        make_encoder(seed=9).save_weights(draft / module.WEIGHTS_FILE)

    monkeypatch.setattr(module, "_write", write_damaged)
    with pytest.raises(ClmrError, match="differ"):
        write_model_folder(make_encoder(seed=3), folder, FACTS)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_tampered_weights_fail_the_check(folder):
    make_encoder(seed=9).save_weights(folder / "encoder.weights.h5")
    with pytest.raises(ClmrError, match=r"encoder\.weights\.h5 gives embeddings that differ"):
        check_golden(folder)
    with pytest.raises(ClmrError, match=r"encoder\.weights\.h5 gives embeddings that differ"):
        load_encoder(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_neither_written_nor_loaded(folder, tmp_path, value):
    # A ReLU makes zeros of the NaN behind the first layer.
    for position in (0, -1):
        encoder = make_encoder()
        statistic = encoder.normalizations[position].moving_mean
        statistic.assign(np.full(statistic.shape, value))
        words = r"^The model's weights, `.*moving_mean`, are not finite \(NaN or infinite\), so nothing was written;"
        with pytest.raises(ClmrError, match=words):
            write_model_folder(encoder, tmp_path / "new", FACTS)
        assert [path.name for path in tmp_path.iterdir()] == ["model"]
    projection = np.full((512, 512), np.nan, np.float32)
    np.savez(folder / "projector.npz", hidden=projection, projection=projection)
    np.savez(folder / "golden.npz", **np.load(folder / "golden.npz"), projection=np.full((2, 512), np.nan, np.float32))
    with pytest.raises(ClmrError, match=r"projector\.npz has projections that are not finite"):
        check_golden(folder)


def test_golden_numbers_that_cannot_be_read_are_one_sentence(folder):
    content = (folder / "golden.npz").read_bytes()
    for damaged in (content[: len(content) // 2], b"words"):
        (folder / "golden.npz").write_bytes(damaged)
        with pytest.raises(UsageError, match=r"golden\.npz cannot be read .*; export the model again"):
            load_encoder(folder)
    (folder / "golden.npz").unlink()
    with pytest.raises(UsageError, match=r"golden\.npz cannot be read"):
        load_encoder(folder)


def test_folders_of_others_are_left_alone(tmp_path):
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "song.mp3").write_text("precious")
    with pytest.raises(UsageError, match="not a model folder"):
        write_model_folder(make_encoder(), tmp_path / "music", FACTS)
    assert (tmp_path / "music" / "song.mp3").read_text() == "precious"


def test_a_prepared_corpus_is_no_model_although_it_has_a_manifest(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", num_songs={"train": 1}, num_samples=64)
    before = {path.name: path.read_bytes() for path in corpus.folder.iterdir()}
    with pytest.raises(UsageError, match="not a model folder"):
        write_model_folder(make_encoder(), corpus.folder, FACTS)
    assert {path.name: path.read_bytes() for path in corpus.folder.iterdir()} == before


def test_places_that_cannot_hold_a_model_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "model", tmp_path / "model [1]"):
        with pytest.raises(UsageError):
            write_model_folder(make_encoder(), place, FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_export_that_was_killed_between_its_last_two_steps_has_lost_nothing(folder, tmp_path):
    folder.rename(tmp_path / ".model.previous")
    (tmp_path / "busy").write_text("")
    write_model_folder(make_encoder(), folder, {**FACTS, "name": "new"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["busy", "model"]
    assert read_manifest(folder)["name"] == "new"


def test_a_score_goes_into_the_manifest(folder):
    record_score(folder, "demo", {"metric": "accuracy", "score": 0.5})
    assert read_manifest(folder)["scores"] == {"demo": {"metric": "accuracy", "score": 0.5}}
    load_encoder(folder, check=True)


@pytest.mark.parametrize("arguments", [{"widht": 1.0}, {"width": -1.0}, {"width": "wide"}])
def test_an_architecture_that_cannot_be_built_is_refused(exported, tmp_path, arguments):
    manifest = read_manifest(exported[0])
    manifest["architecture"]["arguments"] = arguments
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="no architecture that this program can build"):
        load_encoder(tmp_path)


def test_an_encoder_is_float32_whatever_the_policy_of_the_process(exported):
    folder, encoder = exported
    audio = golden_audio(59049, 22050)
    expected = encoder(audio).numpy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        received = read_encoder(folder)(audio)
        # The policy of whoever reads stays what it was.
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    assert received.dtype == np.float32
    np.testing.assert_allclose(received.numpy(), expected, rtol=1e-5, atol=1e-7)


def test_an_export_replaces_an_older_one_and_takes_the_probes_of_its_weights_away(folder):
    record_score(folder, "demo", {"metric": "accuracy", "score": 0.5})
    (folder / "probe-demo.json").write_text("{}")
    # What a program that was killed while writing leaves behind.
    (folder / ".manifest.json.k3x9").write_text("{")
    (folder / ".runtimes.x2q").mkdir()
    # And what was made of the old weights.
    (folder / "model-fp16.tflite").write_text("")
    write_model_folder(make_encoder(seed=5), folder, {**FACTS, "name": "new"})
    assert {path.name for path in folder.iterdir()} == {
        "saved_model",
        "encoder.weights.h5",
        "manifest.json",
        "golden.npz",
        "README.md",
    }
    assert read_manifest(folder)["name"] == "new" and read_manifest(folder)["scores"] == {}


@pytest.mark.parametrize("name", ["notes.txt", "probe.json", "samples/"])
def test_a_file_of_the_users_is_named_and_kept(folder, tmp_path, name):
    (folder / name).mkdir() if name.endswith("/") else (folder / name).write_text("precious")
    before = {path.name for path in folder.iterdir()}
    with pytest.raises(UsageError, match=rf"holds {name.strip('/')}, which .* move it away, or choose another --out"):
        write_model_folder(make_encoder(seed=5), folder, {**FACTS, "name": "new"})
    assert {path.name for path in folder.iterdir()} == before and read_manifest(folder)["name"] == "tiny"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_truncated_weights_are_refused(exported, tmp_path):
    folder, _ = exported
    (tmp_path / "manifest.json").write_text((folder / "manifest.json").read_text())
    (tmp_path / "encoder.weights.h5").write_bytes((folder / "encoder.weights.h5").read_bytes()[:1000])
    with pytest.raises(UsageError, match="cannot be loaded"):
        load_encoder(tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text())["name"] == "tiny"
