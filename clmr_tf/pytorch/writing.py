"""Writes a state dict as `torch.save` does, without PyTorch."""

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping

import numpy as np

_STORAGE_NAMES = {"f4": "FloatStorage", "f8": "DoubleStorage", "i8": "LongStorage"}
_FORMAT_VERSION = b"3\n"
_ROOT = "archive"


def state_dict_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The content of a file that `torch.load(weights_only=True)` reads; the same tensors give the same bytes.

    Args:
        tensors: By name, float32, float64 or int64 of any shape.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:

        def add(name: str, content: bytes) -> None:
            # Without the date, which ZipInfo sets to 1980, files would differ from one second to the next.
            archive.writestr(zipfile.ZipInfo(f"{_ROOT}/{name}"), content)

        # Older versions of PyTorch take the name of the archive from the first file.
        add("data.pkl", _pickle(tensors))
        add("byteorder", b"little")
        for number, tensor in enumerate(tensors.values()):
            add(f"data/{number}", tensor.astype(tensor.dtype.newbyteorder("<")).tobytes())
        add("version", _FORMAT_VERSION)
    return file.getvalue()


def _pickle(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The pickle of a dict of tensors, opcode by opcode: the pickler would want to import what it names."""
    entries = [
        _text(name)
        + _global("torch._utils", "_rebuild_tensor_v2")
        + _tuple(
            _tuple(
                _text("storage"),
                _global("torch", _STORAGE_NAMES[tensor.dtype.str[1:]]),
                _text(str(number)),
                _text("cpu"),
                _integer(tensor.size),
            )
            + pickle.BINPERSID,
            _integer(0),
            _tuple(*map(_integer, tensor.shape)),
            _tuple(*map(_integer, _strides(tensor.shape))),
            pickle.NEWFALSE,
            _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE,
        )
        + pickle.REDUCE
        for number, (name, tensor) in enumerate(tensors.items())
    ]
    content = pickle.EMPTY_DICT + pickle.MARK + b"".join(entries) + pickle.SETITEMS
    return pickle.PROTO + b"\x02" + content + pickle.STOP


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _integer(number: int) -> bytes:
    return pickle.BININT + struct.pack("<i", number)


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _tuple(*parts: bytes) -> bytes:
    return pickle.MARK + b"".join(parts) + pickle.TUPLE
