"""Safetensors files, against the library that defines them and against the other form of the same weights."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save, save_file

from clmr_tf import __version__
from clmr_tf.console import run_command
from clmr_tf.convert import __main__ as convert
from clmr_tf.convert.reader import read_checkpoint
from clmr_tf.convert.translation import safetensors_bytes
from clmr_tf.errors import UsageError
from clmr_tf.export.model_folder import read_manifest
from tests.clmr_tf.convert.checkpoint_files import archive_of
from tests.clmr_tf.probed import only_default_signature

TENSORS = {
    "ünicode.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "scalar": np.array(2**40),
    "empty": np.zeros((0, 3), np.float32),
}


def file_of(header: dict | bytes, data: bytes = b"") -> bytes:
    """A file with any header."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_the_library_reads_what_is_written(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes(TENSORS, 12))
    received = load_file(tmp_path / "a.safetensors")
    assert received.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(received[name], tensor)
        assert received[name].dtype == tensor.dtype and received[name].shape == tensor.shape
    with safe_open(tmp_path / "a.safetensors", "numpy") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["global_step"], metadata["clmr_tf"]) == ("pt", "12", __version__)
    assert {"python", "tensorflow", "keras", "numpy"} <= metadata.keys()


def test_tensors_of_every_type_that_the_library_writes_are_read(read, tmp_path):
    kinds = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "b1")
    tensors = {kind: np.array([[0, 1, 1], [1, 0, 1]], kind) for kind in kinds} | {"scalar": np.array(2.5)}
    save_file(tensors, tmp_path / "a.safetensors")
    checkpoint = read_checkpoint(tmp_path / "a.safetensors")
    assert checkpoint.tensors.keys() == tensors.keys() and checkpoint.metadata == {}
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(checkpoint.tensors[name], tensor)
        assert checkpoint.tensors[name].dtype == tensor.dtype and not checkpoint.tensors[name].flags.writeable
    # 1.5 and -2 in bfloat16.
    halves = read(file_of({"a": entry("BF16", [2], 0, 4)}, b"\xc0\x3f\x00\xc0")).tensors["a"]
    assert halves.dtype == np.float32 and halves.tolist() == [1.5, -2]
    assert read(archive_of({"a.safetensors": save(tensors)})).tensors.keys() == tensors.keys()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (file_of({}), "it contains no tensor"),
        (file_of(b"{" * 50), ""),
        (file_of({"a": entry("F32", [1], 0, 4)})[:20], ""),
        (file_of({"a": entry("F32", [3], 0, 4)}, bytes(4)), ""),
        (file_of({"a": entry("F32", [1], 0, 4)}, bytes(2)), ""),
        (file_of({"a": entry("F32", [2**62, 2**62], 0, 4)}, bytes(4)), ""),
        (file_of({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 0, 4)}, bytes(4)), ""),
        ((2**60).to_bytes(8, "little") + b"{}", ""),
        (file_of({"a\x1b[2J": entry("C64", [1], 0, 8)}, bytes(8)), "is of the unknown type C64"),
    ],
)
def test_a_malformed_file_is_refused_in_one_printable_sentence(read, content, reason):
    with pytest.raises(UsageError, match=r"is not a readable PyTorch checkpoint \(.*\); download it again\.$") as error:
        read(content)
    assert reason in str(error.value) and str(error.value).isprintable()


def test_its_tensors_are_bounded_in_the_type_that_they_are_computed_in(read, monkeypatch):
    monkeypatch.setattr("clmr_tf.convert.reader._MAX_BYTES", 1000)
    with pytest.raises(UsageError, match="its tensors would have 1600 bytes, but a checkpoint may have at most 1000"):
        read(save({"a": np.zeros(200, np.uint8)}))


def test_the_command_writes_the_tensors_of_the_other_form_and_reads_them_again(converted, tmp_path, capsys):
    for name in ("back.ckpt", "back.safetensors"):
        assert run_command(convert.main, ["--to-pytorch", str(converted), "--out", str(tmp_path / name)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.ckpt", "back.safetensors"]
    expected, received = read_checkpoint(tmp_path / "back.ckpt"), load_file(tmp_path / "back.safetensors")
    assert received.keys() == expected.tensors.keys() and len(received) > 70
    for name, tensor in expected.tensors.items():
        np.testing.assert_array_equal(received[name], tensor, err_msg=name)
        assert received[name].dtype == tensor.dtype
    again = ["--from-pytorch", str(tmp_path / "back.safetensors"), "--out", str(tmp_path / "model")]
    with only_default_signature():
        assert run_command(convert.main, again) == 0
    assert read_manifest(tmp_path / "model")["training"]["step"] == 12
    with np.load(tmp_path / "model" / "golden.npz") as ours, np.load(converted / "golden.npz") as golden:
        for name in ("embedding", "logits", "projection"):
            np.testing.assert_allclose(ours[name], golden[name], rtol=0, atol=1e-5 * np.abs(golden[name]).max())


def test_pytorch_reads_what_is_written(tmp_path):
    torch_reader = pytest.importorskip("safetensors.torch", reason="needs PyTorch")
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes(TENSORS, 3))
    for name, tensor in torch_reader.load_file(tmp_path / "a.safetensors").items():
        np.testing.assert_array_equal(tensor.numpy(), TENSORS[name])
