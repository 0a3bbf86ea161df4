"""Small files that claim large sizes take no more memory than a checkpoint may have."""

import pickle
import zipfile

import numpy as np
import pytest

from clmr_tf.convert import reader as reading
from clmr_tf.convert.translation import state_dict_bytes
from clmr_tf.errors import UsageError
from tests.clmr_tf.convert.checkpoint_files import (
    archive_of,
    members,
    pickled_dict,
    pickled_tensor,
    tensor_file,
    with_pickle,
)


def test_a_decompression_bomb_is_refused(read, monkeypatch):
    monkeypatch.setattr(reading, "_MAX_BYTES", 10_000)
    with pytest.raises(UsageError, match=r"clmr\.pt of 20000 bytes is more than a checkpoint needs"):
        read(archive_of({"clmr.pt": bytes(20_000)}, zipfile.ZIP_DEFLATED))
    # None of them by itself.
    many = members(state_dict_bytes({str(number): np.zeros(500) for number in range(3)}))
    with pytest.raises(UsageError, match=r"data/\d of 4000 bytes is more than a checkpoint needs"):
        read(archive_of(many, zipfile.ZIP_DEFLATED))
    with pytest.raises(UsageError, match="has 10001 bytes, but a checkpoint may have at most 10000"):
        read(bytes(10_001))


@pytest.mark.parametrize(
    "changed",
    [
        {"shape": (2**40, 512), "strides": (0, 0), "num_elements": 1},
        {"shape": (2**20, 2**20), "strides": (1, 1), "num_elements": 2**22},
        {"shape": (2**62, 2**62), "strides": (0, 0), "num_elements": 1},
    ],
)
def test_tensors_that_repeat_a_storage_by_strides_are_bounded(read, changed):
    with pytest.raises(UsageError, match=r"would have \d+ bytes, but a checkpoint may have at most 2147483648"):
        read(tensor_file(**changed))


def test_many_tensors_of_one_storage_are_bounded_together(read):
    entries = {f"{number}.weight": pickled_tensor((2**17,), (1,), 2**17) for number in range(2100)}
    with pytest.raises(UsageError, match=r"its tensors would have 2202009600 bytes"):
        read(archive_of({"a/data.pkl": pickled_dict(entries), "a/data/0": bytes(2**19)}))


@pytest.mark.parametrize(
    "changed",
    [
        {"first": 2**63},
        {"shape": (10**400,)},
        {"shape": 65 * (1,), "strides": 65 * (1,)},
        {"shape": (2, 2)},
        {"first": -1},
        {"shape": (-4,)},
        {"shape": (-4, -(2**40)), "strides": (1, 1)},
        {"shape": (2**62,), "num_elements": 2**62},
    ],
)
def test_impossible_shapes_are_one_sentence(read, changed):
    with pytest.raises(UsageError, match=r"is not a readable PyTorch checkpoint \([^\n]*\); download it again\.$"):
        read(tensor_file(**changed))


def test_a_pickle_is_bounded_in_both_formats(read, monkeypatch):
    monkeypatch.setattr(reading, "_MAX_PICKLE_BYTES", 1000)
    with pytest.raises(UsageError, match=r"archive/data\.pkl of \d+ bytes is more than a checkpoint needs"):
        read(with_pickle(b"]" + 2000 * b"Nr\x01\x00\x00\x00" + b"."))
    with pytest.raises(UsageError, match="it contains a pickle of more than 1000 bytes"):
        read(pickle.dumps(reading._LEGACY_MAGIC_NUMBER, 2) + pickle.dumps(list(range(2000)), 2))
