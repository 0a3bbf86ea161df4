"""One model with all its files and one served model for the tests of this folder, and a copy to change."""

import shutil
from pathlib import Path

import pytest

import clmr_tf.export.runtimes as module
from clmr_tf.export.__main__ import ExportConfig, export
from clmr_tf.export.model_folder import read_manifest, write_manifest
from tests.clmr_tf.export import tagged
from tests.clmr_tf.export.tagged import write_probe
from tests.clmr_tf.export.tagger import Tagger, write_tagger
from tests.clmr_tf.probed import write_tiny_model


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A model folder that had a file for another runtime, with a head since then and every file that can be written."""
    folder = write_tiny_model(tagged.model(), tmp_path_factory.mktemp("exported") / "tiny")
    (folder / "model.tflite").write_bytes(b"of the model without a head")
    kinds = "fp16,int8"
    has_onnx = module.version_of("tf2onnx") is not None
    export(ExportConfig(model=folder, head=write_probe(folder.parent), tflite=kinds, onnx=has_onnx))
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of it without any such file, to change."""
    copy = Path(shutil.copytree(exported, tmp_path / "model", ignore=shutil.ignore_patterns("model*")))
    manifest = read_manifest(copy)
    del manifest["runtimes"]
    write_manifest(copy, manifest)
    return copy


@pytest.fixture(scope="session")
def tagger(tmp_path_factory) -> Tagger:
    return write_tagger(tmp_path_factory.mktemp("savedmodels") / "tagger")
