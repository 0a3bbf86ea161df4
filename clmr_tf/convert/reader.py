"""Reads PyTorch checkpoints and safetensors files without PyTorch and without running code from the file."""

import dataclasses
import io
import json
import math
import os
import pickle
import reprlib
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from safetensors import deserialize

from clmr_tf.data.restricted_pickle import NUMPY_SCALARS, PlainMapping, RestrictedUnpickler, UnknownNameError
from clmr_tf.errors import UsageError

# Types by the names of PyTorch's storages. NumPy has no bfloat16, so its bits are read.
STORAGE_DTYPES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "u2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "b1",
}

_SAFETENSORS_STORAGES = {
    "F64": "DoubleStorage",
    "F32": "FloatStorage",
    "F16": "HalfStorage",
    "BF16": "BFloat16Storage",
    "I64": "LongStorage",
    "I32": "IntStorage",
    "I16": "ShortStorage",
    "I8": "CharStorage",
    "U8": "ByteStorage",
    "BOOL": "BoolStorage",
}

# PyTorch's own limit.
_MAX_DIMENSIONS = 64


class StoredTensor(NamedTuple):
    """A tensor as described by a file.

    Attributes:
        storage: Key of its storage.
        first: Index of its first element in the storage.
        shape: Length of each dimension.
        strides: Distance between neighbouring elements in each dimension, in elements.
    """

    storage: str
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass
class Storages:
    """The storages of one file, which are declared by the pickle and then filled.

    Attributes:
        types: Type name and number of elements of each storage, by key.
        contents: Elements of each storage, by key; bfloat16 as its bits.
        byte_order: Byte order of the elements, "<" or ">".
    """

    types: dict[str, tuple[str, int]] = dataclasses.field(default_factory=dict)
    contents: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    byte_order: str = "<"

    def declare(self, identity: Any) -> str:
        """Declares a storage from its persistent id, ("storage", type, key, device, elements), and returns its key.

        Raises:
            ValueError, TypeError: If the id is malformed.
        """
        kind, type_name, key, _, num_elements, *view = (*identity, *5 * [None])[: max(len(identity), 5)]
        if kind != "storage" or type_name not in STORAGE_DTYPES or not isinstance(key, str):
            raise ValueError(f"it refers to an object outside the file, {reprlib.repr(identity)}")
        if not isinstance(num_elements, int) or num_elements < 0 or any(part is not None for part in view):
            raise ValueError(f"the storage {key} is a view or has no length")
        if self.types.setdefault(key, (type_name, num_elements)) != (type_name, num_elements):
            raise ValueError(f"the storage {key} is declared with two types")
        return key

    def num_bytes(self, key: str) -> int:
        """Size of a declared storage."""
        type_name, num_elements = self.types[key]
        return num_elements * np.dtype(STORAGE_DTYPES[type_name]).itemsize

    def fill(self, key: str, raw: bytes) -> None:
        """Sets the bytes of a declared storage.

        Raises:
            ValueError: If their number is wrong.
        """
        if len(raw) != self.num_bytes(key):
            raise ValueError(f"the storage {key} has {len(raw)} bytes instead of {self.num_bytes(key)}")
        dtype = np.dtype(STORAGE_DTYPES[self.types[key][0]]).newbyteorder(self.byte_order)
        self.contents[key] = np.frombuffer(raw, dtype)

    def arrays_of(self, tensors: Mapping[str, StoredTensor], max_bytes: int) -> dict[str, np.ndarray]:
        """The tensors as read-only views of their storages; bfloat16 is converted to float32.

        Raises:
            ValueError: If a tensor exceeds its storage, or all tensors together exceed `max_bytes`, which small files
                can claim with strides of 0 or with many tensors of one storage.
        """
        num_bytes = 0
        for tensor in tensors.values():
            num_numbers = math.prod(tensor.shape)
            reach = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.strides, strict=True))
            if min((tensor.first, *tensor.shape, *tensor.strides)) < 0 or (
                num_numbers > 0 and tensor.first + reach >= self.types[tensor.storage][1]
            ):
                raise ValueError(f"a tensor exceeds the storage {tensor.storage}")
            # They are converted to float64 later.
            num_bytes += 8 * num_numbers
        if num_bytes > max_bytes:
            raise ValueError(f"its tensors would have {num_bytes} bytes, but a checkpoint may have at most {max_bytes}")
        return {name: self._array_of(tensor) for name, tensor in tensors.items()}

    def _array_of(self, tensor: StoredTensor) -> np.ndarray:
        elements = self.contents[tensor.storage]
        is_bfloat16 = self.types[tensor.storage][0] == "BFloat16Storage"
        if math.prod(tensor.shape) == 0:
            return np.zeros(tensor.shape, np.float32 if is_bfloat16 else elements.dtype)
        strides = [stride * elements.itemsize for stride in tensor.strides]
        array = np.lib.stride_tricks.as_strided(elements[tensor.first :], tensor.shape, strides, writeable=False)
        if is_bfloat16:
            # bfloat16 is the upper half of a float32.
            array = np.asarray(array.astype(np.uint32) << 16).view(np.float32)
            array.flags.writeable = False
        return array


def rebuild_tensor(storage: str, first: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> StoredTensor:
    """Replaces the function of this name, which PyTorch's pickles call for every tensor."""
    numbers = (first, *shape, *strides)
    is_shape = len(shape) == len(strides) <= _MAX_DIMENSIONS and all(type(one) is int for one in numbers)
    # Arithmetic on huge integers would take forever.
    if not isinstance(storage, str) or not is_shape or any(abs(one) >= 2**63 for one in numbers):
        raise TypeError("a tensor has an invalid shape")
    return StoredTensor(storage, first, tuple(shape), tuple(strides))


_LEGACY_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_CHECKPOINT_SUFFIXES = (".pt", ".pth", ".ckpt", ".tar", ".safetensors")
_MAX_BYTES = 2**31
"""Limit of a file, of everything read from a zip archive, and of all tensors. Released checkpoints have 30 MB."""
_MAX_PICKLE_BYTES = 2**24
"""Limit of a pickle, which contains no arrays; with optimizers, it has about 100 KB."""
_STATE_DICT_NAMES = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which a checkpoint can contain its state dict, also nested."""
_MAX_NESTING = 3
"""Limit for the nesting of state dicts; a pickle can contain a dictionary that contains itself."""

# What training code saves in addition to the weights: numbers are kept, everything else becomes empty.
_FACTORIES = ("bool", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "set", "str", "tuple")
_TORCH_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
_STAND_INS: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("collections", "OrderedDict"): PlainMapping,
    ("collections", "defaultdict"): PlainMapping,
    ("collections", "Counter"): PlainMapping,
    **{(module, name): lambda *_: None for module in ("builtins", "__builtin__") for name in _FACTORIES},
    **NUMPY_SCALARS,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): lambda *_: PlainMapping() for core in ("core", "_core")},
    ("numpy", "ndarray"): "ndarray",
    ("argparse", "Namespace"): PlainMapping,
    ("torch", "Size"): lambda shape: shape,
    ("torch", "device"): lambda *name: name,
    ("pytorch_lightning.utilities.parsing", "AttributeDict"): PlainMapping,
    ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"): PlainMapping,
    ("pytorch_lightning.callbacks.early_stopping", "EarlyStopping"): PlainMapping,
    **{("torch", name): name for name in (*STORAGE_DTYPES, *_TORCH_DTYPES)},
}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint.

    Attributes:
        tensors: The state dict, in its order.
        metadata: "epoch", "global_step" and "pytorch-lightning_version", if the checkpoint has them.
    """

    tensors: dict[str, np.ndarray]
    metadata: dict[str, int | str]


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads the state dict of a `.pt`, `.ckpt` or `.safetensors` file, which may be the only one in a zip archive.

    Raises:
        UsageError: If the file cannot be read, is not a checkpoint, is damaged, or contains anything but tensors and
            plain data. No code from the file is run.
    """
    try:
        with path.open("rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            content = file.read(num_bytes) if num_bytes <= _MAX_BYTES else b""
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); give a checkpoint of PyTorch.") from error
    if num_bytes > _MAX_BYTES:
        raise UsageError(
            f"{path} has {num_bytes} bytes, but a checkpoint may have at most {_MAX_BYTES}; save only the state dict "
            "of its encoder."
        )
    try:
        return _read(content, _Budget(_MAX_BYTES))
    except UnknownNameError as error:
        where = f", near the keys {some_keys(error.keys)}" if error.keys else ""
        raise UsageError(
            f"{path} was rejected because {_in_one_line(error)}, which weights do not need{where}; no code from it was "
            "run. If you trust the file, save only its state dict."
        ) from error
    except _UnclearError as error:
        raise UsageError(f"{path} contains {error}; extract it and give one checkpoint.") from error
    # A damaged file can raise anything.
    except Exception as error:
        reason = _in_one_line(error) or type(error).__name__
        raise UsageError(f"{path} is not a readable PyTorch checkpoint ({reason}); download it again.") from error


class _UnclearError(Exception):
    """A zip archive does not contain exactly one checkpoint; the message says what it contains."""


class _Budget:
    """How many more bytes may be read from archives."""

    def __init__(self, num_bytes: int) -> None:
        self._num_left = num_bytes

    def read(self, archive: zipfile.ZipFile, name: str, max_bytes: int = _MAX_BYTES) -> bytes:
        """The content of a file in an archive; zipfile reads no more than the size that the archive declares."""
        num_bytes = archive.getinfo(name).file_size
        self._num_left -= num_bytes
        if self._num_left < 0 or num_bytes > max_bytes:
            raise ValueError(f"{name} of {num_bytes} bytes is more than a checkpoint needs")
        return archive.read(name)


class _Limited:
    """Limits how much of a file a pickle can read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._end = file.tell() + _MAX_PICKLE_BYTES

    def read(self, num_bytes: int) -> bytes:
        if num_bytes > self._num_left():
            raise ValueError(f"it contains a pickle of more than {_MAX_PICKLE_BYTES} bytes, or one that is damaged")
        return self._file.read(num_bytes)

    def readline(self) -> bytes:
        return self._file.readline(self._num_left())

    def _num_left(self) -> int:
        return max(self._end - self._file.tell(), 0)


def _in_one_line(error: Exception) -> str:
    # Control characters in a file must not reach the terminal.
    return "".join(one if one.isprintable() else "?" for one in " ".join(str(error).split()))[:200]


def _unpickle(file: BinaryIO, storages: Storages) -> Any:
    return RestrictedUnpickler(_Limited(file), _STAND_INS, storages.declare).load()


def _read(content: bytes, budget: _Budget, *, is_inside: bool = False) -> Checkpoint:
    # A safetensors file begins with the length of its header, 8 bytes, and the header, which is JSON.
    if content[8:9] == b"{":
        return _read_safetensors(content)
    if not content.startswith(b"PK"):
        return _read_legacy(io.BytesIO(content))
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise ValueError("it is a truncated zip archive")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if pickles:
            return _read_archive(archive, pickles[0].removesuffix("data.pkl"), budget)
        found = [name for name in names if name.endswith(_CHECKPOINT_SUFFIXES) and not name.startswith("__MACOSX")]
        if len(found) != 1 or is_inside:
            listed = ", ".join((found or names)[:3]) or "nothing"
            raise _UnclearError(listed)
        return _read(budget.read(archive, found[0]), budget, is_inside=True)


def _read_safetensors(content: bytes) -> Checkpoint:
    storages, tensors = Storages(), {}
    for name, stored in deserialize(content):
        if stored["dtype"] not in _SAFETENSORS_STORAGES:
            raise ValueError(f"{some_keys([name])} is of the unknown type {stored['dtype']}")
        shape = tuple(stored["shape"])
        storages.declare(("storage", _SAFETENSORS_STORAGES[stored["dtype"]], name, "cpu", math.prod(shape)))
        storages.fill(name, bytes(stored["data"]))
        tensors[name] = StoredTensor(name, 0, shape, contiguous_strides(shape))
    if not tensors:
        raise ValueError("it contains no tensor")
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    step = header.get("__metadata__", {}).get("global_step", "")
    return Checkpoint(storages.arrays_of(tensors, _MAX_BYTES), {"global_step": int(step)} if step.isdecimal() else {})


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a row-major tensor, in elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _read_archive(archive: zipfile.ZipFile, root: str, budget: _Budget) -> Checkpoint:
    storages = Storages()
    content = _unpickle(io.BytesIO(budget.read(archive, f"{root}data.pkl", _MAX_PICKLE_BYTES)), storages)
    # Before PyTorch 2.1 there was no such file, and machines were little-endian.
    if f"{root}byteorder" in archive.namelist() and budget.read(archive, f"{root}byteorder") == b"big":
        storages.byte_order = ">"
    tensors, metadata = _state_dict_in(content)
    # Only these, since an optimizer has its own storages.
    for key in {tensor.storage: None for tensor in tensors.values()}:
        storages.fill(key, budget.read(archive, f"{root}data/{key}", storages.num_bytes(key)))
    return Checkpoint(storages.arrays_of(tensors, _MAX_BYTES), metadata)


def _read_legacy(file: BinaryIO) -> Checkpoint:
    storages = Storages()
    if file.read(1) != pickle.PROTO:
        raise ValueError("it is neither a zip archive, nor a safetensors file, nor a file of PyTorch before 1.6")
    file.seek(0)
    if _unpickle(file, storages) != _LEGACY_MAGIC_NUMBER:
        raise ValueError("it is a pickle that PyTorch did not write")
    _unpickle(file, storages)
    machine = _unpickle(file, storages)
    content, keys = _unpickle(file, storages), _unpickle(file, storages)
    tensors, metadata = _state_dict_in(content)
    is_little = machine["little_endian"]
    storages.byte_order = "<" if is_little else ">"
    for key in keys:
        num_elements = int.from_bytes(file.read(8), "little" if is_little else "big")
        if num_elements != storages.types[key][1]:
            raise ValueError(f"the storage {key} has {num_elements} elements instead of {storages.types[key][1]}")
        storages.fill(key, file.read(storages.num_bytes(key)))
    return Checkpoint(storages.arrays_of(tensors, _MAX_BYTES), metadata)


def _state_dict_in(content: Any) -> tuple[dict[str, StoredTensor], dict[str, int | str]]:
    """The tensors of a state dict, and the metadata that is stored with it."""
    outside = _items(content)
    state = outside
    for _ in range(_MAX_NESTING):
        inside = next((state[name] for name in _STATE_DICT_NAMES if isinstance(state.get(name), dict)), None)
        state = state if inside is None else _items(inside)
    tensors = {name: one for name, one in state.items() if isinstance(one, StoredTensor)}
    if not tensors or any(not isinstance(name, str) for name in tensors):
        raise ValueError(f"it contains no state dict, but {some_keys(state)}")
    names = ("epoch", "global_step", "pytorch-lightning_version")
    return tensors, {name: outside[name] for name in names if type(outside.get(name)) in (int, str)}


def _items(content: Any) -> dict[Any, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"it contains no state dict, but an object of the type {type(content).__name__}")
    # Calls the method of dict itself, since a pickle may have replaced that of the object.
    return dict(dict.items(content))


_NUM_LISTED_KEYS, _LONGEST_KEY = 3, 80


def some_keys(keys: Iterable[Any]) -> str:
    """A few keys of a file for an error message, such as "`a`, `b`, `c` and 40 more"; "no key" if there are none."""
    found = list(keys)
    # Text from a file must be escaped before it is printed to the terminal.
    listed = ", ".join(
        f"`{key}`" if isinstance(key, str) and key.isprintable() and len(key) <= _LONGEST_KEY else reprlib.repr(key)
        for key in found[:_NUM_LISTED_KEYS]
    )
    more = f" and {len(found) - _NUM_LISTED_KEYS} more" if len(found) > _NUM_LISTED_KEYS else ""
    return f"{listed}{more}" if found else "no key"
