"""Model folders are complete, checked, and replaced only by a correct export; other folders are left alone."""

import json

import keras
import numpy as np
import pytest

import clmr_tf.export.writing as module
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.export.keras_model import check_golden, read_encoder
from clmr_tf.export.model_card import record_score
from clmr_tf.export.model_folder import read_manifest
from clmr_tf.export.writing import golden_audio, write_model_folder
from clmr_tf.inference.encoder import load_encoder
from clmr_tf.models.encoders import build_encoder
from clmr_tf.models.sample_cnn import SampleCNN
from tests.clmr_tf.exported import MANIFEST_ENTRIES, model
from tests.clmr_tf.probed import tiny_model
from tests.synthetic import synthetic_corpus

pytestmark = pytest.mark.usefixtures("quick_export")


def other_model(seed: int) -> SampleCNN:
    return build_encoder(width=0.0625, seed=seed)


FILES = {"saved_model", "encoder.weights.h5", "manifest.json", "golden.npz", "README.md"}


def test_an_export_has_all_files_and_every_variable_once(exported_folder):
    assert {path.name for path in exported_folder.iterdir()} == {*FILES, "head.npz", "projector.npz"}
    manifest = read_manifest(exported_folder)
    assert manifest["input"] == {"name": "audio", "clip_num_samples": 59049, "sample_rate_hz": 22050, "channels": 1}
    assert manifest["licence"] == "CC0-1.0" and manifest["training"] == {"step": 3}
    num_bytes = sum(path.stat().st_size for path in (exported_folder / "saved_model" / "variables").iterdir())
    assert num_bytes < 4 * model().count_params() + 20_000


def test_the_weights_make_the_same_encoder(exported_folder):
    encoder, folder = model(), exported_folder
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
        other_model(9).save_weights(draft / module.WEIGHTS_FILE)

    monkeypatch.setattr(module, "_write", write_damaged)
    with pytest.raises(ClmrError, match="differ"):
        write_model_folder(other_model(3), folder, MANIFEST_ENTRIES)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_tampered_weights_fail_the_check(folder):
    other_model(9).save_weights(folder / "encoder.weights.h5")
    with pytest.raises(ClmrError, match=r"encoder\.weights\.h5 gives embeddings that differ"):
        check_golden(folder)
    with pytest.raises(ClmrError, match=r"encoder\.weights\.h5 gives embeddings that differ"):
        load_encoder(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_neither_written_nor_loaded(folder, tmp_path, value):
    # A ReLU makes zeros of the NaN behind the first layer.
    for position in (0, -1):
        encoder = tiny_model()
        statistic = encoder.normalizations[position].moving_mean
        statistic.assign(np.full(statistic.shape, value))
        words = r"^The model's weights, `.*moving_mean`, are not finite \(NaN or infinite\), so nothing was written;"
        with pytest.raises(ClmrError, match=words):
            write_model_folder(encoder, tmp_path / "new", MANIFEST_ENTRIES)
        assert [path.name for path in tmp_path.iterdir()] == ["model"]
    projection = np.full((512, 512), np.nan, np.float32)
    np.savez(folder / "projector.npz", hidden=projection, projection=projection)
    golden = {**np.load(folder / "golden.npz"), "projection": np.full((2, 512), np.nan, np.float32)}
    np.savez(folder / "golden.npz", **golden)
    with pytest.raises(ClmrError, match=r"projector\.npz has projections that are not finite"):
        check_golden(folder)


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "song.mp3").write_text("precious")
    with pytest.raises(UsageError, match="not a model folder"):
        write_model_folder(model(), tmp_path / "music", MANIFEST_ENTRIES)
    assert (tmp_path / "music" / "song.mp3").read_text() == "precious"


def test_a_prepared_corpus_is_not_replaced(tmp_path):
    corpus = synthetic_corpus(tmp_path / "corpus", num_songs={"train": 1}, num_samples=64)
    before = {path: path.read_bytes() for path in corpus.folder.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="not a model folder"):
        write_model_folder(model(), corpus.folder, MANIFEST_ENTRIES)
    assert {path: path.read_bytes() for path in corpus.folder.rglob("*") if path.is_file()} == before


def test_impossible_places_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "model", tmp_path / "model [1]"):
        with pytest.raises(UsageError):
            write_model_folder(model(), place, MANIFEST_ENTRIES)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_killed_export_loses_nothing(folder, tmp_path):
    folder.rename(tmp_path / ".model.previous")
    (tmp_path / "busy").write_text("")
    write_model_folder(model(), folder, {**MANIFEST_ENTRIES, "name": "new"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["busy", "model"]
    assert read_manifest(folder)["name"] == "new"


def test_a_score_goes_into_the_manifest(folder):
    record_score(folder, "demo", {"metric": "accuracy", "mean": 0.5})
    assert read_manifest(folder)["scores"] == {"demo": {"metric": "accuracy", "mean": 0.5}}
    load_encoder(folder, check=True)


@pytest.mark.parametrize("arguments", [{"widht": 1.0}, {"width": -1.0}, {"width": "wide"}])
def test_an_architecture_that_cannot_be_built_is_refused(exported_folder, tmp_path, arguments):
    manifest = read_manifest(exported_folder)
    manifest["architecture"]["arguments"] = arguments
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="has an architecture that cannot be built"):
        load_encoder(tmp_path, runtime="tensorflow")


def test_an_encoder_is_float32_whatever_the_policy_of_the_process(exported_folder):
    encoder, folder = model(), exported_folder
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


@pytest.mark.soak
def test_an_export_of_other_weights_removes_old_probes_and_drafts(folder):
    record_score(folder, "demo", {"metric": "accuracy", "mean": 0.5})
    (folder / "retrieval-demo.json").write_text("{}")
    # What a program that was killed while writing leaves behind.
    (folder / ".manifest.json.k3x9").write_text("{")
    (folder / ".runtimes.x2q").mkdir()
    # And what was made of the old weights.
    (folder / "model-fp16.tflite").write_text("")
    write_model_folder(other_model(5), folder, {**MANIFEST_ENTRIES, "name": "new"})
    assert {path.name for path in folder.iterdir()} == FILES
    assert read_manifest(folder)["name"] == "new" and read_manifest(folder)["scores"] == {}


@pytest.mark.parametrize("name", ["notes.txt", "probe.json", "samples/"])
def test_a_file_of_the_user_is_named_and_kept(folder, tmp_path, name):
    (folder / name).mkdir() if name.endswith("/") else (folder / name).write_text("precious")
    before = {path.name for path in folder.iterdir()}
    with pytest.raises(
        UsageError, match=rf"contains {name.strip('/')}, which .* move it away, or choose another --out"
    ):
        write_model_folder(other_model(5), folder, {**MANIFEST_ENTRIES, "name": "new"})
    assert {path.name for path in folder.iterdir()} == before and read_manifest(folder)["name"] == "tiny"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_truncated_weights_are_refused(folder, tmp_path):
    (tmp_path / "manifest.json").write_text((folder / "manifest.json").read_text())
    (tmp_path / "encoder.weights.h5").write_bytes((folder / "encoder.weights.h5").read_bytes()[:1000])
    with pytest.raises(UsageError, match="cannot be loaded"):
        load_encoder(tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text())["name"] == "tiny"


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        '{"format_version": 99}',
        "[]",
        '{"format_version": 1}',
        '{"format_version": 1, "architecture": "SampleCNN", "training": {"step": 1}, "scores": {}}',
        '{"format_version": 1, "architecture": {"arguments": []}, "training": {"step": 1}, "scores": {}}',
        '{"format_version": 1, "architecture": {"arguments": {}}, "training": {}, "scores": {}}',
        '{"format_version": 1, "architecture": {"arguments": {}}, "training": {"step": 1}}',
    ],
)
def test_a_folder_without_a_valid_manifest_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UsageError):
        load_encoder(tmp_path)
    with pytest.raises(UsageError):
        read_manifest(tmp_path)


def test_a_prepared_corpus_is_not_read_as_a_model(tmp_path):
    corpus = synthetic_corpus(tmp_path / "corpus", num_songs={"train": 1}, num_samples=64)
    for read in (load_encoder, read_manifest):
        with pytest.raises(UsageError, match="not of format version 1, which this program reads"):
            read(corpus.folder)


def test_a_folder_that_is_neither_model_nor_run_is_refused_with_advice(tmp_path):
    with pytest.raises(
        UsageError, match=r"neither a model folder nor a run folder; give one written by `python -m clmr_tf\.export` or"
    ):
        load_encoder(tmp_path)
