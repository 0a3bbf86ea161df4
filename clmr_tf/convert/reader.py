"""PyTorch checkpoints read without PyTorch, and without running what they ask for."""

import dataclasses
import io
import math
import os
import pickle
import reprlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from clmr_tf.convert.state_dict_keys import some_keys
from clmr_tf.data.restricted_pickle import NUMPY_SCALARS, PlainMapping, RestrictedUnpickler, UnknownNameError
from clmr_tf.errors import UsageError

# Kinds of numbers by the names of PyTorch's storages; there is no bfloat16 in NumPy, so its bits are read.
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

# As many as PyTorch has.
_MOST_DIMENSIONS = 64


class StoredTensor(NamedTuple):
    """What a file says about a tensor.

    Attributes:
        storage: Key of its numbers.
        first: Where in the storage it begins, in elements.
        shape: Of each dimension the length.
        strides: Of each dimension the distance of its elements in the storage.
    """

    storage: str
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass
class Storages:
    """The storages of one file: first what the pickle says about them, then their numbers.

    Attributes:
        types: By key, the name of the storage's type and its number of elements.
        contents: By key, the elements; bfloat16 as its bits.
        byte_order: "<" or ">", of the elements.
    """

    types: dict[str, tuple[str, int]] = dataclasses.field(default_factory=dict)
    contents: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    byte_order: str = "<"

    def declare(self, identity: Any) -> str:
        """Takes a pickle's words for a storage, ("storage", type, key, device, elements), and returns its key.

        Raises:
            ValueError, TypeError: If they are none.
        """
        kind, type_name, key, _, num_elements, *view = (*identity, *5 * [None])[: max(len(identity), 5)]
        if kind != "storage" or type_name not in STORAGE_DTYPES or not isinstance(key, str):
            raise ValueError(f"it asks for something outside of it, {reprlib.repr(identity)}")
        if not isinstance(num_elements, int) or num_elements < 0 or any(part is not None for part in view):
            raise ValueError(f"the storage {key} is a view or has no length")
        if self.types.setdefault(key, (type_name, num_elements)) != (type_name, num_elements):
            raise ValueError(f"the storage {key} is there as two types")
        return key

    def num_bytes(self, key: str) -> int:
        """Size of a declared storage."""
        type_name, num_elements = self.types[key]
        return num_elements * np.dtype(STORAGE_DTYPES[type_name]).itemsize

    def fill(self, key: str, raw: bytes) -> None:
        """Takes the bytes of a declared storage.

        Raises:
            ValueError: If they are too few or too many.
        """
        if len(raw) != self.num_bytes(key):
            raise ValueError(f"the storage {key} has {len(raw)} bytes instead of {self.num_bytes(key)}")
        dtype = np.dtype(STORAGE_DTYPES[self.types[key][0]]).newbyteorder(self.byte_order)
        self.contents[key] = np.frombuffer(raw, dtype)

    def arrays_of(self, tensors: Mapping[str, StoredTensor], max_bytes: int) -> dict[str, np.ndarray]:
        """The numbers of tensors, read-only; bfloat16 becomes float32, and all else is a view of its storage.

        Raises:
            ValueError: If a tensor reaches out of its storage, or if all of them together would have more than
                `max_bytes`: a few bytes become any number of them by strides of 0 or by many tensors of one storage.
        """
        num_bytes = 0
        for tensor in tensors.values():
            num_numbers = math.prod(tensor.shape)
            reach = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.strides, strict=True))
            if min((tensor.first, *tensor.shape, *tensor.strides)) < 0 or (
                num_numbers > 0 and tensor.first + reach >= self.types[tensor.storage][1]
            ):
                raise ValueError(f"a tensor reaches out of the storage {tensor.storage}")
            # In float64, in which they are computed with.
            num_bytes += 8 * num_numbers
        if num_bytes > max_bytes:
            raise ValueError(f"its tensors would have {num_bytes} bytes, and a checkpoint may have {max_bytes}")
        return {name: self._array_of(tensor) for name, tensor in tensors.items()}

    def _array_of(self, tensor: StoredTensor) -> np.ndarray:
        elements = self.contents[tensor.storage]
        is_bfloat16 = self.types[tensor.storage][0] == "BFloat16Storage"
        if math.prod(tensor.shape) == 0:
            return np.zeros(tensor.shape, np.float32 if is_bfloat16 else elements.dtype)
        strides = [stride * elements.itemsize for stride in tensor.strides]
        array = np.lib.stride_tricks.as_strided(elements[tensor.first :], tensor.shape, strides, writeable=False)
        if is_bfloat16:
            # The upper half of a float32.
            array = np.asarray(array.astype(np.uint32) << 16).view(np.float32)
            array.flags.writeable = False
        return array


def rebuild_tensor(storage: str, first: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> StoredTensor:
    """Stands in for the function that PyTorch's pickles call for every tensor."""
    numbers = (first, *shape, *strides)
    is_shape = len(shape) == len(strides) <= _MOST_DIMENSIONS and all(type(one) is int for one in numbers)
    # Of larger numbers, products alone would take forever.
    if not isinstance(storage, str) or not is_shape or any(abs(one) >= 2**63 for one in numbers):
        raise TypeError("a tensor without a shape that makes sense")
    return StoredTensor(storage, first, tuple(shape), tuple(strides))


_LEGACY_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_CHECKPOINT_SUFFIXES = (".pt", ".pth", ".ckpt", ".tar")
_MAX_BYTES = 2**31
"""Of a file, of all together that is read out of a zip archive, where a few bytes may inflate to any number, and of all
tensors. The released checkpoints have 30 MB."""
_MAX_PICKLE_BYTES = 2**24
"""Of a pickle, which has the names of the weights and not their numbers; with optimizers, some 100 KB."""
_STATE_DICT_NAMES = ("state_dict", "model_state_dict", "model", "net")
"""Under which of its keys a checkpoint has the state dict, if it is not one itself; also one in another."""
_DEEPEST_STATE_DICT = 3
"""How far in; a pickle can hold a dictionary that holds itself."""

# What training code saves beside the weights is let through: numbers as they are, everything else empty.
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
    """A checkpoint as it was found.

    Attributes:
        tensors: The state dict, in its order.
        facts: What Lightning says about the training, of "epoch", "global_step" and "pytorch-lightning_version".
    """

    tensors: dict[str, np.ndarray]
    facts: dict[str, int | str]


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads the state dict of a `.pt` or `.ckpt` file, which may be the one checkpoint in a zip archive.

    Raises:
        UsageError: If the file cannot be read, is no checkpoint, is damaged, or holds anything but tensors and plain
            data; nothing of it was called.
    """
    try:
        with path.open("rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            content = file.read(num_bytes) if num_bytes <= _MAX_BYTES else b""
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); give a checkpoint of PyTorch.") from error
    if num_bytes > _MAX_BYTES:
        raise UsageError(
            f"{path} has {num_bytes} bytes, and a checkpoint may have {_MAX_BYTES}; save the state dict of its encoder "
            "by itself."
        )
    try:
        return _read(content, _Budget(_MAX_BYTES))
    except UnknownNameError as error:
        where = f" behind the keys {some_keys(error.keys)}" if error.keys else ""
        raise UsageError(
            f"{path} is refused, since {_in_one_line(error)}, which weights do not need,{where}; nothing of it was "
            "run, and if you trust it, save its state dict by itself."
        ) from error
    except _UnclearError as error:
        raise UsageError(f"{path} holds {error}; unpack it and give one checkpoint.") from error
    # A damaged file fails in every way there is.
    except Exception as error:
        reason = _in_one_line(error) or type(error).__name__
        raise UsageError(f"{path} is no checkpoint of PyTorch that can be read ({reason}); fetch it again.") from error


class _UnclearError(Exception):
    """A zip archive does not hold exactly one checkpoint, but what this says."""


class _Budget:
    """How many bytes may still be read out of archives."""

    def __init__(self, num_bytes: int) -> None:
        self._num_left = num_bytes

    def read(self, archive: zipfile.ZipFile, name: str, max_bytes: int = _MAX_BYTES) -> bytes:
        """A file of an archive; zipfile reads no more of it than the archive says."""
        num_bytes = archive.getinfo(name).file_size
        self._num_left -= num_bytes
        if self._num_left < 0 or num_bytes > max_bytes:
            raise ValueError(f"{name} of {num_bytes} bytes is more than a checkpoint needs")
        return archive.read(name)


class _Limited:
    """The part of a file that a pickle may have."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._end = file.tell() + _MAX_PICKLE_BYTES

    def read(self, num_bytes: int) -> bytes:
        if num_bytes > self._num_left():
            raise ValueError(f"it holds a pickle of more than {_MAX_PICKLE_BYTES} bytes, or one that is damaged")
        return self._file.read(num_bytes)

    def readline(self) -> bytes:
        return self._file.readline(self._num_left())

    def _num_left(self) -> int:
        return max(self._end - self._file.tell(), 0)


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _unpickle(file: BinaryIO, storages: Storages) -> Any:
    return RestrictedUnpickler(_Limited(file), _STAND_INS, storages.declare).load()


def _read(content: bytes, budget: _Budget, *, is_inside: bool = False) -> Checkpoint:
    if not content.startswith(b"PK"):
        return _read_legacy(io.BytesIO(content))
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise ValueError("it is a zip archive that is cut short")
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


def _read_archive(archive: zipfile.ZipFile, root: str, budget: _Budget) -> Checkpoint:
    storages = Storages()
    content = _unpickle(io.BytesIO(budget.read(archive, f"{root}data.pkl", _MAX_PICKLE_BYTES)), storages)
    # The file of that name came with PyTorch 2.1; before, the order was that of the machine, which was little.
    if f"{root}byteorder" in archive.namelist() and budget.read(archive, f"{root}byteorder") == b"big":
        storages.byte_order = ">"
    tensors, facts = _state_dict_in(content)
    # Of no others, such as those of an optimizer.
    for key in {tensor.storage: None for tensor in tensors.values()}:
        storages.fill(key, budget.read(archive, f"{root}data/{key}", storages.num_bytes(key)))
    return Checkpoint(storages.arrays_of(tensors, _MAX_BYTES), facts)


def _read_legacy(file: BinaryIO) -> Checkpoint:
    storages = Storages()
    if file.read(1) != pickle.PROTO:
        raise ValueError("it is neither a zip archive nor what PyTorch wrote before version 1.6")
    file.seek(0)
    if _unpickle(file, storages) != _LEGACY_MAGIC_NUMBER:
        raise ValueError("it is a pickle, but not of PyTorch")
    _unpickle(file, storages)
    machine = _unpickle(file, storages)
    content, keys = _unpickle(file, storages), _unpickle(file, storages)
    tensors, facts = _state_dict_in(content)
    is_little = machine["little_endian"]
    storages.byte_order = "<" if is_little else ">"
    for key in keys:
        num_elements = int.from_bytes(file.read(8), "little" if is_little else "big")
        if num_elements != storages.types[key][1]:
            raise ValueError(f"the storage {key} has {num_elements} elements instead of {storages.types[key][1]}")
        storages.fill(key, file.read(storages.num_bytes(key)))
    return Checkpoint(storages.arrays_of(tensors, _MAX_BYTES), facts)


def _state_dict_in(content: Any) -> tuple[dict[str, StoredTensor], dict[str, int | str]]:
    """The tensors of a state dict, and the facts that are beside it."""
    outside = _items(content)
    state = outside
    for _ in range(_DEEPEST_STATE_DICT):
        inside = next((state[name] for name in _STATE_DICT_NAMES if isinstance(state.get(name), dict)), None)
        state = state if inside is None else _items(inside)
    tensors = {name: one for name, one in state.items() if isinstance(one, StoredTensor)}
    if not tensors or any(not isinstance(name, str) for name in tensors):
        raise ValueError(f"there is no state dict in it, but {some_keys(state)}")
    names = ("epoch", "global_step", "pytorch-lightning_version")
    return tensors, {name: outside[name] for name in names if type(outside.get(name)) in (int, str)}


def _items(content: Any) -> dict[Any, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"there is no state dict in it, but an object of the type {type(content).__name__}")
    # By the method of dict itself, since a pickle may have given the stand-ins another.
    return dict(dict.items(content))
