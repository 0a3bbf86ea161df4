"""The exported model in all forms."""

import shutil
from pathlib import Path

import pytest
import tensorflow as tf

import clmr_tf.export.runtimes as module
from clmr_tf.export.__main__ import ExportConfig, export
from clmr_tf.export.model_card import write_manifest
from clmr_tf.export.model_folder import SAVED_MODEL, read_manifest
from clmr_tf.inference.encoder import load_encoder
from tests.clmr_tf.exported import ExportedModel, write_probe
from tests.clmr_tf.probed import only_default_signature
from tests.tiny_network import tiny_network  # noqa: F401 - a fixture


@pytest.fixture(scope="session")
def exported(exported_folder) -> ExportedModel:
    saved = tf.saved_model.load(str(exported_folder / SAVED_MODEL))
    return ExportedModel(exported_folder, load_encoder(exported_folder), saved)


@pytest.fixture(scope="session")
def with_runtimes(exported_folder, shared_folder) -> Path:
    """A model folder with the head of a probe and all files for other runtimes, one of which had another head."""

    def make(folder: Path) -> None:
        shutil.copytree(exported_folder, folder)
        (folder / "model.tflite").write_bytes(b"with the tags of another head")
        has_onnx = module.version_of("tf2onnx") is not None
        export(ExportConfig(model=folder, head=write_probe(folder.parent), tflite="fp16,int8", onnx=has_onnx))

    return shared_folder("with-runtimes", make)


@pytest.fixture
def without_runtimes(with_runtimes, tmp_path) -> Path:
    """A copy of it without these files, to change."""
    copy = Path(shutil.copytree(with_runtimes, tmp_path / "model", ignore=shutil.ignore_patterns("model*")))
    manifest = read_manifest(copy)
    del manifest["runtimes"]
    write_manifest(copy, manifest)
    return copy


@pytest.fixture(scope="module")
def quick_export(exported_folder):
    """Exports have one signature; the shared model, which comes first, has all."""
    with only_default_signature():
        yield
