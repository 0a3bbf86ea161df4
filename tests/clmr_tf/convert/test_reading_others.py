"""Checkpoints of other training code: names, wrappers and objects beside the weights."""

import pickle
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest

from clmr_tf.convert.reader import read_checkpoint
from clmr_tf.errors import UsageError
from tests.clmr_tf.convert.checkpoint_files import GOLDEN, archive_of, pickled_dict, pickled_tensor, with_pickle


@pytest.mark.parametrize("keys", [["net"], ["model"], ["model_state_dict"], ["model", "state_dict"], ["net", "model"]])
def test_a_state_dict_under_common_keys_is_found(read, keys):
    content = pickled_dict({"weight": pickled_tensor((4,), (1,), 4)})
    for key in reversed(keys):
        content = pickled_dict({"epoch": pickle.dumps(5, 2)[2:-1], key: content[2:-1]})
    numbers = np.arange(4, dtype=np.float32)
    checkpoint = read(archive_of({"a/data.pkl": content, "a/data/0": numbers.tobytes()}))
    np.testing.assert_array_equal(checkpoint.tensors["weight"], numbers)
    assert checkpoint.metadata == {"epoch": 5}


def test_common_objects_stored_with_the_weights_are_accepted(read):
    beside = {
        "epoch": np.int64(7),
        "global_step": np.int32(12),
        "best": np.float32(0.5),
        "name": np.str_("clmr"),
        "history": defaultdict(list, loss=[np.float64(1.5)]),
        "counts": Counter("aab"),
        "order": OrderedDict(a=1),
        "random": np.random.RandomState(1).get_state(),
        "tags": {"guitar", "piano"},
        "objects": np.array([None, "x"], object),
    }
    whole = {key: pickle.dumps(value, 2)[2:-1] for key, value in beside.items()}
    content = pickled_dict({**whole, "state_dict": pickled_dict({"weight": pickled_tensor((4,), (1,), 4)})[2:-1]})
    numbers = np.arange(4, dtype=np.float32)
    checkpoint = read(archive_of({"a/data.pkl": content, "a/data/0": numbers.tobytes()}))
    np.testing.assert_array_equal(checkpoint.tensors["weight"], numbers)
    assert checkpoint.metadata == {"epoch": 7, "global_step": 12}


def test_a_refusal_names_the_keys_of_the_object(read):
    content = pickled_dict({"hyper_parameters": pickled_dict({"optimizer": b"ctorch.optim\nAdam\n"})[2:-1]})
    with pytest.raises(
        UsageError, match=r"torch\.optim\.Adam, .*, near the keys `hyper_parameters`, `optimizer`; no code"
    ):
        read(with_pickle(content))


def test_a_list_is_not_a_state_dict():
    # What torch.save([1, 2]) of PyTorch 2.13 wrote.
    with pytest.raises(UsageError, match=r"list\.pt is not a readable .* but an object of the type list\); download"):
        read_checkpoint(GOLDEN / "list.pt")
