"""Reads files of PyTorch without it; damaged and malicious files are refused in one sentence, and run no code."""

import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from clmr_tf.convert import reader as reading
from clmr_tf.convert.reader import read_checkpoint
from clmr_tf.convert.translation import state_dict_bytes
from clmr_tf.errors import UsageError
from tests.clmr_tf.convert.checkpoint_files import (
    GOLDEN,
    archive_of,
    lightning_bytes,
    members,
    pickled_dict,
    pickled_tensor,
    with_pickle,
)

SAVED = {name: (GOLDEN / f"{name}.ckpt").read_bytes() for name in ("torch_saved", "torch_saved_legacy")}
REFUSED = r"clmr\.ckpt is not a readable PyTorch checkpoint \([^\n]*\); download it again\.$"
NUMBERS = {"numbers": np.arange(4, dtype=np.float32)}


def require_equal_to_what_was_saved(tensors: dict[str, np.ndarray]) -> None:
    with np.load(GOLDEN / "torch_saved.npz") as expected:
        for name in expected:
            np.testing.assert_array_equal(tensors[name], expected[name], err_msg=name)
            assert tensors[name].dtype == expected[name].dtype and tensors[name].shape == expected[name].shape


@pytest.mark.parametrize("name", SAVED)
def test_tensors_of_every_type_equal_those_that_pytorch_saved(read, name):
    checkpoint = read(SAVED[name])
    require_equal_to_what_was_saved(checkpoint.tensors)
    assert checkpoint.metadata == {"epoch": 3, "global_step": 12, "pytorch-lightning_version": "1.9.0"}
    assert list(checkpoint.tensors)[:2] == ["weight", "bias"]
    with pytest.raises(ValueError, match="read-only"):
        checkpoint.tensors["plain"][0] = 1


def test_tensors_that_share_a_storage_share_memory(read):
    tensors = read(SAVED["torch_saved"]).tensors
    assert np.shares_memory(tensors["plain"], tensors["transposed"])


@pytest.mark.parametrize("name", SAVED)
def test_a_checkpoint_in_a_zip_archive_is_read(read, name):
    files = {"clmr/": b"", "clmr/clmr_epoch=10000.ckpt": SAVED[name], "__MACOSX/clmr/._clmr.ckpt": b"x", "README": b"y"}
    require_equal_to_what_was_saved(read(archive_of(files, zipfile.ZIP_DEFLATED)).tensors)


def test_an_archive_without_exactly_one_checkpoint_is_refused(read):
    with pytest.raises(UsageError, match=r"contains a\.pt, b\.ckpt; extract it and give one checkpoint\.$"):
        read(archive_of({"a.pt": SAVED["torch_saved"], "b.ckpt": SAVED["torch_saved"]}))
    with pytest.raises(UsageError, match=r"contains song\.mp3; extract it"):
        read(archive_of({"song.mp3": b"x"}))
    with pytest.raises(UsageError, match=r"contains a\.pt; extract it"):
        read(archive_of({"a.pt": archive_of({"a.pt": SAVED["torch_saved"]})}))


def test_the_byte_order_of_the_file_is_used(read):
    tensors = {"a": np.array([1.5, -2]), "b": np.array([[1, 2**40]]), "c": np.array([0.5], np.float32)}
    files = members(state_dict_bytes(tensors))
    for number, tensor in enumerate(tensors.values()):
        files[f"archive/data/{number}"] = tensor.byteswap().tobytes()
    files["archive/byteorder"] = b"big"
    received = read(archive_of(files)).tensors
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(received[name], tensor)
    del files["archive/byteorder"]
    assert read(archive_of(files)).tensors["a"][0] != 1.5


def test_a_state_dict_in_a_lightning_checkpoint_is_read(read):
    checkpoint = read(lightning_bytes(NUMBERS))
    np.testing.assert_array_equal(checkpoint.tensors["numbers"], NUMBERS["numbers"])
    assert checkpoint.metadata["global_step"] == 12


class Attack:
    """Calls something when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def test_a_malicious_checkpoint_runs_no_code(read, tmp_path):
    marker = tmp_path / "it ran"
    attacks = [
        Attack(os.system, f"touch '{marker}'"),
        Attack(eval, f"open({str(marker)!r}, 'w').close()"),
        Attack(os.mkdir, str(marker)),
        Attack(Path.touch, marker),
    ]
    # With an unrestricted unpickler it does run, so this test would notice.
    pickle.loads(pickle.dumps(attacks[0], 2))
    assert marker.exists()
    marker.unlink()
    for attack in attacks:
        content = pickle.dumps({"state_dict": {"encoder.sequential.0.0.weight": attack}}, 2)
        legacy = pickle.dumps(reading._LEGACY_MAGIC_NUMBER, 2) + content
        for file in (with_pickle(content), legacy, content, archive_of({"clmr.pt": with_pickle(content)})):
            with pytest.raises(
                UsageError, match=r"was rejected because it refers to \w+\.\w+, which .* no code from it was run"
            ):
                read(file)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (b"cposix\nsystem\n.", "posix.system"),
        (b"\x80\x04\x8c\x05torch\x8c\x11hub.load.__call__\x93.", "torch.hub.load.__call__"),
        (b"ctorch\nload\n.", "torch.load"),
        (b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n.", "torch._utils._rebuild_tensor_v2.__globals__"),
    ],
)
def test_names_that_no_tensor_needs_are_refused(read, content, asked):
    with pytest.raises(UsageError, match=re.escape(f"clmr.ckpt was rejected because it refers to {asked}, which")):
        read(with_pickle(content))


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (b"(Vfile\ntQ.", "outside"),
        (
            b"(Vstorage\nVFloatStorage\nV../../etc/passwd\nVcpu\nI4\ntQ.",
            "it contains no state dict, but an object of the type str",
        ),
        (b"(Vstorage\nVEvilStorage\nV0\nVcpu\nI4\ntQ.", "EvilStorage"),
        (b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI4\nI1\ntQ.", "is a view or has no length"),
        (
            b"((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI4\ntQ(Vstorage\nctorch\nLongStorage\nV0\nVcpu\nI4\ntQt.",
            "is declared with two types",
        ),
        (b"ccollections\nOrderedDict\n(N(dVitems\nNstb.", ""),
        (b"N.", ""),
        (b"}.", "it contains no state dict, but no key"),
        (pickle.dumps(dict.fromkeys("abcde", 1)), "it contains no state dict, but `a`, `b`, `c` and 2 more"),
        # A dictionary that holds itself.
        (b"}p0\nVmodel\ng0\ns.", "it contains no state dict, but `model`"),
        # Says that it has 2**40 bytes.
        (b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".", "a buffer"),
        (b"a.", "damaged or truncated"),
        # A memo index far beyond the others, which must not allocate what lies between.
        (b"Nr\xff\xff\xff\x7f.", ""),
    ],
)
def test_odd_pickles_are_one_sentence(read, content, asked):
    with pytest.raises(UsageError, match=REFUSED) as no:
        read(with_pickle(content))
    assert asked in str(no.value)


def test_a_damaged_legacy_file_is_one_sentence(read):
    with pytest.raises(UsageError, match="it is a pickle that PyTorch did not write"):
        read(pickle.dumps(5, 2))
    before = [pickle.dumps(one, 2) for one in (reading._LEGACY_MAGIC_NUMBER, 1001, {"little_endian": True})]
    content = [pickled_dict({"weight": pickled_tensor((4,), (1,), 4)}), pickle.dumps(["0"], 2)]
    for num_elements, words in ((5, "has 5 elements instead of 4"), (4, "has 12 bytes instead of 16")):
        with pytest.raises(UsageError, match=f"the storage 0 {words}"):
            read(b"".join([*before, *content, num_elements.to_bytes(8, "little"), bytes(12)]))


def test_a_truncated_zip_archive_is_named(read):
    with pytest.raises(UsageError, match="it is a truncated zip archive"):
        read(SAVED["torch_saved"][:3000])


@pytest.mark.parametrize("name", SAVED)
def test_a_truncated_file_is_one_sentence(read, name):
    content = SAVED[name]
    for length in (*range(0, len(content), 97), len(content) - 1):
        # Half a name is an unknown one.
        with pytest.raises(UsageError, match=rf"{REFUSED}|was rejected because it refers to \S+, which"):
            read(content[:length])


def test_a_damaged_storage_is_one_sentence(read):
    content = bytearray(state_dict_bytes(NUMBERS))
    content[content.index(NUMBERS["numbers"].tobytes()) + 5] ^= 1
    with pytest.raises(UsageError, match="CRC"):
        read(bytes(content))
    files = members(state_dict_bytes(NUMBERS))
    with pytest.raises(UsageError, match="storage 0 has 12 bytes instead of 16"):
        read(archive_of({**files, "archive/data/0": files["archive/data/0"][:-4]}))


@pytest.mark.parametrize(("before", "after"), [((4, 0), (5, 0)), ((4, 0), (4, 1)), ((1, 0), (2, 0)), ((4, 0), (4, -1))])
def test_a_tensor_that_exceeds_its_storage_is_refused(read, before, after):
    files = members(state_dict_bytes(NUMBERS))

    def packed(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    # Offset, then the tuples of the shape and of the strides.
    def layout(first: int, length: int, stride: int) -> bytes:
        return packed(first) + b"(" + packed(length) + b"t(" + packed(stride) + b"t"

    original = layout(0, 4, 1)
    assert files["archive/data.pkl"].count(original) == 1
    changed = layout(after[1], after[0], 1) if before[0] == 4 else layout(0, 4, after[0])
    files["archive/data.pkl"] = files["archive/data.pkl"].replace(original, changed)
    with pytest.raises(UsageError, match="exceeds the storage 0"):
        read(archive_of(files))


def test_a_path_that_is_not_a_file_is_one_sentence(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.pt cannot be read \(No such file"):
        read_checkpoint(tmp_path / "gone.pt")
    with pytest.raises(UsageError, match=r"cannot be read \(Is a directory\)"):
        read_checkpoint(tmp_path)
