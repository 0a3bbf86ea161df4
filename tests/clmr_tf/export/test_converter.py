"""The folded network equals the encoder, and every runtime gives the tags of a head's definition, with their names."""

import itertools
import json
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.export.converter import FoldedHead, FoldedNetwork, convert, read_folded_head
from clmr_tf.export.runtime_formats import FORMATS, version_of
from clmr_tf.export.runtime_process import load
from clmr_tf.export.writing import golden_audio
from clmr_tf.models.encoders import ENCODERS, build_encoder
from clmr_tf.models.heads import Head
from tests.clmr_tf.exported import tags_by_definition
from tests.reference.random_weights import randomize

NUM_FEATURES, NUM_HIDDEN = 512, 40
TAGS = ("Größe", "quiet", 'the "last"', "4", "5")
NEEDED = {"onnx": ("onnxruntime", "tf2onnx")}


def head_of(num_hidden: int) -> Head:
    """A head on features whose deviations are a thousandfold apart, as those of rectified units are."""
    generator = np.random.default_rng(3)
    sizes = [NUM_FEATURES, num_hidden, len(TAGS)] if num_hidden else [NUM_FEATURES, len(TAGS)]
    weights = []
    for before, after in itertools.pairwise(sizes):
        weights.append(2 * generator.standard_normal((before, after)) / np.sqrt(before))
        weights.append(generator.standard_normal(after))
    deviation = 10 ** generator.uniform(-3, 0, NUM_FEATURES)
    mean = deviation * generator.uniform(0.2, 2, NUM_FEATURES)
    return Head(mean.astype(np.float32), deviation.astype(np.float32), tuple(w.astype(np.float32) for w in weights))


def features_of(head: Head, num_rows: int) -> np.ndarray:
    normal = np.random.default_rng(4).standard_normal((num_rows, NUM_FEATURES))
    return np.maximum(head.mean + head.standard_deviation * normal, 0).astype(np.float32)


@pytest.mark.parametrize(
    ("num_hidden", "single_label"), [(0, False), (NUM_HIDDEN, True)], ids=["linear-sigmoid", "mlp-softmax"]
)
@pytest.mark.parametrize(("kind", "largest_error"), [("fp32", 2e-6), ("fp16", 2e-3), ("int8", 2e-6), ("onnx", 2e-6)])
def test_every_runtime_gives_the_tags_and_their_names(tmp_path, kind, largest_error, num_hidden, single_label):
    for package in NEEDED.get(kind, ("ai-edge-litert",)):
        if version_of(package) is None:
            pytest.skip(f"needs {package}")
    head = head_of(num_hidden)
    folded = FoldedHead.fold(head, single_label, TAGS)

    def network(audio: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"tags": folded(audio, as_sums=kind == "int8")}

    signature = [tf.TensorSpec([None, NUM_FEATURES], tf.float32, name="audio")]
    file = tmp_path / FORMATS[kind].file
    file.write_bytes(convert(tf.function(network, input_signature=signature), kind, TAGS))
    features = features_of(head, 6)
    head.save(tmp_path / "head.npz")
    expected = tags_by_definition(tmp_path / "head.npz", single_label, features)
    assert expected.std() > 0.2
    run = load(file, num_threads=1)
    for rows in (slice(0, 6), slice(2, 3)):
        tags = run(features[rows])["tags"]
        assert tags.dtype == np.float32
        np.testing.assert_allclose(tags, expected[rows], rtol=0, atol=largest_error)
    assert names_in(file) == list(TAGS)


def names_in(file) -> list[str]:
    if file.suffix == ".onnx":
        import onnxruntime

        return json.loads(onnxruntime.InferenceSession(str(file)).get_modelmeta().custom_metadata_map["tag_names"])
    return json.loads(zipfile.ZipFile(file).read("tag_names.json"))


def test_a_model_without_a_head_file_has_none(tmp_path):
    manifest = {
        "format_version": 1,
        "architecture": {"arguments": {}},
        "training": {"step": 3},
        "scores": {},
        "weights_sha256": "0",
    }
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "single_label": True, "tag_names": TAGS}))
    assert read_folded_head(tmp_path) is None
    head_of(0).save(tmp_path / "head.npz")
    assert read_folded_head(tmp_path).tag_names == TAGS


@pytest.mark.parametrize("sample_rate_hz", [22050, 16000, 8000])
@pytest.mark.parametrize("name", list(ENCODERS))
def test_the_folded_network_gives_the_encoders_embeddings(name, sample_rate_hz):
    encoder = build_encoder(name, width=0.0625, sample_rate_hz=sample_rate_hz, seed=1)
    randomize(encoder)
    generator = np.random.default_rng(0)
    for variable in encoder.variables:
        # Negative scales as well: behind them the greatest frame of a pooling was the least one.
        if variable.name == "gamma":
            variable.assign(generator.uniform(-1.5, 1.5, variable.shape))
    audio = golden_audio(encoder.clip_num_samples, sample_rate_hz)
    expected = encoder(audio).numpy()
    assert expected.std() > 1e-3
    for in_8_bits in (False, True):
        received = FoldedNetwork(encoder).function(in_8_bits=in_8_bits)(audio)["embedding"].numpy()
        np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5 * expected.max())
