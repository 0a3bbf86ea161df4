"""One export for all tests of this folder."""

import pytest

from tests.clmr_tf.serving.tagger import Tagger, write_tagger


@pytest.fixture(scope="session")
def tagger(tmp_path_factory) -> Tagger:
    return write_tagger(tmp_path_factory.mktemp("savedmodels") / "tagger")
