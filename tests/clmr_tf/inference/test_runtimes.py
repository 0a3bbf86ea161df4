"""A model folder in every runtime: the same embeddings, tags, tables and errors."""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from clmr_tf import embed, hardware, similar
from clmr_tf.console import run_command
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.export.keras_model import weights_hash
from clmr_tf.export.runtime_formats import FORMATS
from clmr_tf.inference import encoder as module
from clmr_tf.inference import exported_encoder
from clmr_tf.inference.encoder import RUNTIMES, load_encoder
from tests.clmr_tf.exported import PROBE_TAGS, model, tags_by_definition
from tests.clmr_tf.probed import CLIP
from tests.synthetic import melody, write_music

RATE_HZ = 22_050
EXPORTED = [runtime for runtime in RUNTIMES if runtime != "tensorflow"]


@pytest.fixture(scope="module", autouse=True)
def all_runtimes():
    for package in ("ai_edge_litert", "onnxruntime", "tf2onnx"):
        pytest.importorskip(package)


@pytest.fixture
def copy(with_runtimes, tmp_path) -> Path:
    """A copy of the model folder, to change."""
    return Path(shutil.copytree(with_runtimes, tmp_path / "model"))


def without(monkeypatch, *packages: str) -> None:
    """Makes packages appear as not installed."""
    installed = module.version_of
    for user in (module, exported_encoder):
        monkeypatch.setattr(user, "version_of", lambda package: None if package in packages else installed(package))


@pytest.fixture(scope="module")
def song(tmp_path_factory) -> Path:
    """Stereo at another rate, of three windows."""
    path = tmp_path_factory.mktemp("song") / "song.flac"
    audio = melody(3, 8 * 44_100, 44_100)
    soundfile.write(path, np.stack([audio, 0.5 * audio], axis=1), 44_100)
    return path


@pytest.mark.parametrize("runtime", EXPORTED)
def test_the_same_song_has_the_same_embeddings_and_tags(with_runtimes, song, runtime):
    expected = load_encoder(with_runtimes, "tensorflow")
    received = load_encoder(with_runtimes, runtime)
    assert (received.runtime, received.clip_num_samples, received.sample_rate_hz) == (runtime, CLIP, RATE_HZ)
    ours, theirs = (one.embed(song, hop_seconds=0.7) for one in (received, expected))
    np.testing.assert_array_equal(ours.times_seconds, theirs.times_seconds)
    lengths = np.linalg.norm(ours.vectors, axis=1) * np.linalg.norm(theirs.vectors, axis=1)
    least_cosine = np.min(np.sum(ours.vectors * theirs.vectors, axis=1) / lengths)
    assert least_cosine >= (0.99 if runtime == "litert-int8" else 0.9999)
    tagging = received.tag(song, hop_seconds=0.7)
    assert tagging.tag_names == tuple(PROBE_TAGS)
    by_definition = tags_by_definition(with_runtimes / "head.npz", True, ours.vectors)
    np.testing.assert_allclose(tagging.probabilities, by_definition, atol=1e-5)


@pytest.mark.parametrize("runtime", EXPORTED)
def test_clips_are_encoded_whatever_the_batch_and_from_several_threads(with_runtimes, runtime):
    encoder = load_encoder(with_runtimes, runtime)
    clips = np.stack([melody(seed, CLIP) for seed in range(5)])
    expected = encoder.encode_clips(clips, batch_size=1)
    for batch_size in (2, 5, 32):
        np.testing.assert_allclose(encoder.encode_clips(clips, batch_size), expected, rtol=1e-3, atol=1e-4)
    assert encoder.encode_clips(np.zeros((0, CLIP))).shape == (0, 512)
    with pytest.raises(UsageError, match="59049"):
        encoder.encode_clips(clips[:, 1:])
    received: dict[int, np.ndarray] = {}

    def encode(row: int) -> None:
        received[row] = np.concatenate([encoder.encode_clips(clips[row][None]) for _ in range(5)])

    threads = [threading.Thread(target=encode, args=(row,)) for row in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for row in range(4):
        np.testing.assert_allclose(received[row], np.repeat(expected[row][None], 5, axis=0), rtol=1e-3, atol=1e-4)


def test_auto_takes_an_exact_runtime_that_is_there(with_runtimes, copy, tmp_path, monkeypatch):
    assert load_encoder(with_runtimes).runtime == "onnx"
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "model.onnx").unlink()
    assert load_encoder(copy).runtime == "litert"
    # What is not described in the manifest cannot be checked.
    del manifest["runtimes"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert load_encoder(copy).runtime == "tensorflow"
    with monkeypatch.context() as patch:
        without(patch, "onnxruntime")
        assert load_encoder(with_runtimes).runtime == "litert"
        without(patch, "onnxruntime", "ai-edge-litert")
        assert load_encoder(with_runtimes).runtime == "tensorflow"
    # Only TensorFlow uses a GPU.
    monkeypatch.setattr(hardware, "_DRIVER_FOLDER", tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert load_encoder(with_runtimes).runtime == "tensorflow"
    # The included model of an installation has no weights for TensorFlow.
    (copy / "encoder.weights.h5").unlink()
    (copy / "manifest.json").write_bytes((with_runtimes / "manifest.json").read_bytes())
    assert load_encoder(copy).runtime == "litert"


@pytest.mark.parametrize("runtime", EXPORTED)
def test_what_a_runtime_lacks_is_one_sentence(copy, tmp_path, monkeypatch, runtime):
    wanted = FORMATS[RUNTIMES[runtime]]
    with monkeypatch.context() as patch:
        without(patch, wanted.runtime)
        expected = f"The runtime {runtime} needs the package {wanted.runtime}, which is not installed; run `pip install"
        with pytest.raises(UsageError, match=expected):
            load_encoder(copy, runtime)
    content = (copy / wanted.file).read_bytes()
    (copy / wanted.file).write_bytes(content[:-1] + b"?")
    with pytest.raises(UsageError, match=rf"{wanted.file} is damaged: its SHA-256 is not that in the manifest"):
        load_encoder(copy, runtime)
    (copy / wanted.file).unlink()
    with pytest.raises(UsageError, match=rf"has no {wanted.file}, which the runtime {runtime} needs; add it with"):
        load_encoder(copy, runtime)
    with pytest.raises(UsageError, match=r"nowhere is not a model folder"):
        load_encoder(tmp_path / "nowhere", runtime)
    with pytest.raises(UsageError, match="There is no runtime 'fast'; use auto, tensorflow, litert, litert-int8, onnx"):
        load_encoder(copy, "fast")


@pytest.mark.parametrize("runtime", EXPORTED)
def test_other_numbers_than_the_golden_ones_are_refused(copy, runtime):
    file = copy / FORMATS[RUNTIMES[runtime]].file
    with np.load(copy / "golden.npz") as golden:
        arrays = dict(golden)
    np.savez(copy / "golden.npz", **{**arrays, "logits": arrays["logits"] + 0.01})
    with pytest.raises(ClmrError, match=r"head\.npz gives logits that differ from golden\.npz by"):
        load_encoder(copy, runtime)
    np.savez(copy / "golden.npz", **{**arrays, "embedding": arrays["embedding"][:, ::-1]})
    with pytest.raises(ClmrError, match=rf"{file.name} gives embeddings of the golden clips that differ by .*; export"):
        load_encoder(copy, runtime)
    np.savez(copy / "golden.npz", **{**arrays, "audio": arrays["audio"][:, 1:]})
    with pytest.raises(UsageError, match="has clips of 59048 samples, and the encoder needs 59049"):
        load_encoder(copy, runtime)
    np.savez(copy / "golden.npz", **arrays)
    # A file that is as the manifest says, but of no use.
    replaced = b"\0" * 1000
    file.write_bytes(replaced)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["runtimes"][file.name]["sha256"] = exported_encoder.hashlib.sha256(replaced).hexdigest()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match=rf"{file.name} cannot be run by .*; export the model again") as error:
        load_encoder(copy, runtime)
    assert "\n" not in str(error.value)


def test_exact_runtimes_share_tables_and_8_bits_do_not(with_runtimes, tmp_path, capsys):
    hashes = {runtime: load_encoder(with_runtimes, runtime).model_hash for runtime in RUNTIMES}
    exact = weights_hash(model())
    assert hashes == {"tensorflow": exact, "litert": exact, "onnx": exact, "litert-int8": f"{exact}-int8"}
    write_music(tmp_path / "songs", 3)
    of_model = ["--model", str(with_runtimes)]
    for runtime in ("litert", "litert-int8"):
        command = [str(tmp_path / "songs"), *of_model, "--runtime", runtime, "--out", str(tmp_path / runtime)]
        assert run_command(embed.main, command) == 0
    song, found = str(tmp_path / "songs" / "song 1.flac"), {}
    for runtime in ("tensorflow", "litert", "onnx"):
        capsys.readouterr()
        query = [song, *of_model, "--runtime", runtime, "--index", str(tmp_path / "litert")]
        assert run_command(similar.main, query) == 0
        found[runtime] = capsys.readouterr().out.splitlines()
    for lines in found.values():
        assert [line[9:] for line in lines] == [line[9:] for line in found["litert"]]
    for table, runtime, right in (("litert", "litert-int8", "auto"), ("litert-int8", "onnx", "litert-int8")):
        query = [song, *of_model, "--runtime", runtime, "--index", str(tmp_path / table)]
        assert run_command(similar.main, query) == 2
        expected = f"{table} was not made with the runtime {runtime}; use --runtime {right}, or embed the files again."
        assert expected in " ".join(capsys.readouterr().err.split())
