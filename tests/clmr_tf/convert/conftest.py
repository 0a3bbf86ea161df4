"""Reads bytes as a checkpoint."""

import pytest

from clmr_tf.convert.reader import read_checkpoint


@pytest.fixture
def read(tmp_path):
    def write_and_read(content: bytes):
        (tmp_path / "clmr.ckpt").write_bytes(content)
        return read_checkpoint(tmp_path / "clmr.ckpt")

    return write_and_read
