"""One small model, its exported folder, and one corpus for all tests of this folder."""

from pathlib import Path

import pytest

from clmr_tf.data.corpus import Corpus
from clmr_tf.models.sample_cnn import SampleCNN
from tests.clmr_tf.probed import tiny_model, write_corpus_with_tasks, write_tiny_model


@pytest.fixture(scope="session")
def model() -> SampleCNN:
    return tiny_model()


@pytest.fixture(scope="session")
def model_folder(shared_folder) -> Path:
    """Shared; tests that change it take a copy."""
    return shared_folder("probed", lambda folder: write_tiny_model(tiny_model(), folder))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Corpus:
    return write_corpus_with_tasks(tmp_path_factory.mktemp("corpora") / "songs")


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """Features of the model on the corpus, each computed by the first test that needs them."""
    return tmp_path_factory.mktemp("features")
