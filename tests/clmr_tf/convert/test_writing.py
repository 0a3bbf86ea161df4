"""State dicts as `torch.load` reads them."""

import numpy as np
import pytest

from clmr_tf.convert.reader import read_checkpoint
from clmr_tf.convert.translation import state_dict_bytes

TENSORS = {
    "ünicode.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "scalar": np.array(2**40),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "written.pt"
    path.write_bytes(state_dict_bytes(TENSORS))
    return path


def test_is_read_as_it_was_written(path):
    received = read_checkpoint(path).tensors
    assert list(received) == list(TENSORS)
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(received[name], tensor)
        assert received[name].dtype == tensor.dtype and received[name].shape == tensor.shape


def test_the_same_tensors_give_the_same_bytes(path):
    assert state_dict_bytes(dict(TENSORS)) == path.read_bytes()


@pytest.mark.parametrize("memory_mapped", [False, True])
def test_pytorch_reads_it(path, memory_mapped):
    torch = pytest.importorskip("torch")
    received = torch.load(path, weights_only=True, mmap=memory_mapped)
    assert list(received) == list(TENSORS)
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(received[name].numpy(), tensor)
        assert received[name].is_contiguous()
