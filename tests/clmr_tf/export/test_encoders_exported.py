"""Encoders other than SampleCNN in every exported form: the same embeddings as the network itself."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

import clmr_tf.export.runtimes as module
from clmr_tf.convert.translation import to_pytorch
from clmr_tf.errors import UsageError
from clmr_tf.export.model_folder import SAVED_MODEL, read_manifest
from clmr_tf.export.runtime_formats import FORMATS
from clmr_tf.export.runtime_process import load
from clmr_tf.export.runtimes import add_runtime_files
from clmr_tf.export.writing import write_model_folder
from clmr_tf.inference.encoder import load_encoder
from clmr_tf.inference.tensorflow_encoder import start_from_pretrained
from clmr_tf.models.clip_encoder import ClipEncoder
from clmr_tf.models.encoders import build_encoder
from tests.clmr_tf.exported import MANIFEST_ENTRIES, assert_same, music, wav
from tests.reference.random_weights import randomize

NEEDED = {"onnx": ("onnxruntime", "tf2onnx")}
KINDS = [
    kind
    for kind in ("fp32", "int8", "onnx")
    if None not in map(module.version_of, NEEDED.get(kind, ("ai-edge-litert",)))
]
CLASSES = {"mel_cnn": "MelCNN", "tune": "TUNe"}
OPENVINO = """
import sys
import numpy as np, openvino

model = openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
np.save("embedding.npy", model({"audio": np.load("audio.npy")})["embedding"])
"""


class Exported(NamedTuple):
    """A model folder, and the encoder that it was made of."""

    name: str
    folder: Path
    encoder: ClipEncoder
    expected: np.ndarray


@pytest.fixture(scope="module", params=["mel_cnn", pytest.param("tune", marks=pytest.mark.soak)])
def exported(request, shared_folder) -> Exported:
    encoder = build_encoder(request.param, width=0.125, seed=2)
    randomize(encoder)

    def make(folder: Path) -> None:
        write_model_folder(encoder, folder, {**MANIFEST_ENTRIES, "tag_names": []})
        add_runtime_files(folder, KINDS)

    return Exported(request.param, shared_folder(request.param, make), encoder, encoder(music()).numpy())


def test_the_folder_names_the_encoder_and_loads_as_it_is(exported):
    architecture = read_manifest(exported.folder)["architecture"]
    arguments = {"encoder": exported.name, "width": 0.125, "sample_rate_hz": 22050}
    assert architecture == {"class": CLASSES[exported.name], "arguments": arguments}
    loaded = load_encoder(exported.folder, check=True)
    assert_same(loaded.encode_clips(music()), exported.expected, tolerance=1e-5)
    assert exported.expected.std() > 0.1
    card = (exported.folder / "README.md").read_text(encoding="utf-8")
    assert f"{CLASSES[exported.name]} (`--encoder {exported.name}`) of width 0.125" in card


def test_the_signatures_take_clips_a_waveform_and_files(exported):
    signatures = tf.saved_model.load(str(exported.folder / SAVED_MODEL)).signatures
    clips = music()[:2]
    assert_same(signatures["serving_default"](audio=tf.constant(clips))["embedding"].numpy(), exported.expected[:2])
    recording = np.concatenate([*clips, np.zeros(500, np.float32)])
    outputs = signatures["waveform"](audio=tf.constant(recording))
    assert_same(outputs["embeddings"].numpy(), exported.expected[:2])
    assert_same(outputs["embedding"].numpy(), exported.expected[:2].mean(axis=0))
    outputs = signatures["wav_bytes"](wav=tf.constant([wav(recording, 22050)]))
    # 16 bits are 1.5e-5 of rounding.
    assert_same(outputs["embeddings"].numpy(), exported.expected[None, :2], tolerance=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_the_embeddings_for_any_batch(exported, kind):
    run = load(exported.folder / FORMATS[kind].file, num_threads=1)
    for rows in (slice(0, 3), slice(1, 2)):
        received, expected = run(music()[rows])["embedding"], exported.expected[rows]
        if kind == "int8":
            lengths = np.linalg.norm(received, axis=1) * np.linalg.norm(expected, axis=1)
            assert np.min(np.sum(received * expected, axis=1) / lengths) >= 0.995
        else:
            assert_same(received, expected)


@pytest.mark.skipif(find_spec("openvino") is None, reason="needs openvino")
def test_openvino_reads_the_saved_model(exported, tmp_path):
    np.save(tmp_path / "audio.npy", music())
    command = [sys.executable, "-c", OPENVINO, str(exported.folder / SAVED_MODEL)]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""}, check=True, capture_output=True)
    assert_same(np.load(tmp_path / "embedding.npy"), exported.expected)


def test_what_only_fits_another_encoder_is_one_sentence(exported, tmp_path):
    with pytest.raises(
        UsageError, match=rf"builds only SampleCNN, .* is {exported.name}; give a model .* sample_cnn\."
    ):
        to_pytorch(exported.folder, tmp_path / "checkpoint.pt")
    assert not list(tmp_path.iterdir())
    other = build_encoder(width=0.125)
    expected = rf"has --encoder {exported.name}, .* but the run has sample_cnn, 0\.125 and 22050; use the values"
    with pytest.raises(UsageError, match=expected):
        start_from_pretrained(other, exported.folder)
    again = build_encoder(exported.name, width=0.125)
    start_from_pretrained(again, exported.folder)
    assert_same(again(music()).numpy(), exported.expected, tolerance=1e-6)


def test_weights_of_another_encoder_and_unknown_names_are_refused(exported, folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, complaint in ((exported.name, "cannot be loaded"), ("mel_cn", "cannot be built.*did you mean `mel_cnn`")):
        manifest["architecture"]["arguments"] = {"encoder": name, "width": 0.0625, "sample_rate_hz": 22050}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(UsageError, match=complaint) as error:
            load_encoder(folder)
        assert "\n" not in str(error.value)
