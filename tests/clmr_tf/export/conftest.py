"""The exported model in all forms."""

import shutil
from pathlib import Path

import pytest
import tensorflow as tf

from clmr_tf.export.model_card import write_manifest
from clmr_tf.export.model_folder import SAVED_MODEL, read_manifest
from clmr_tf.inference.encoder import load_encoder
from tests.clmr_tf.exported import ExportedModel
from tests.clmr_tf.probed import only_default_signature
from tests.tiny_network import tiny_network  # noqa: F401 - a fixture


@pytest.fixture(scope="session")
def exported(exported_folder) -> ExportedModel:
    saved = tf.saved_model.load(str(exported_folder / SAVED_MODEL))
    return ExportedModel(exported_folder, load_encoder(exported_folder), saved)


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
