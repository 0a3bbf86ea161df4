"""Reads the files of `torch.save` without PyTorch, and without running anything that they say.

Two formats. Since PyTorch 1.6 a zip archive: NAME/data.pkl, a pickle that names the storages, NAME/data/KEY, their
bytes, and NAME/byteorder. Before, a row of pickles, the fourth of them the content and the fifth the keys of the
storages, and then the storages, each after its number of elements in 8 bytes. The released checkpoints lie in a second
zip archive.
"""

import dataclasses
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from clmr_tf.errors import UsageError
from clmr_tf.pytorch.state_dict_keys import some_keys
from clmr_tf.pytorch.storages import STORAGE_DTYPES, Storages, StoredTensor, rebuild_tensor
from clmr_tf.restricted_pickle import NUMPY_SCALARS, PlainMapping, RestrictedUnpickler, UnknownNameError

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
