"""Reads the files of `torch.save` without PyTorch, and without running anything that they say.

Two formats. Since PyTorch 1.6 a zip archive: NAME/data.pkl, a pickle that names the storages, NAME/data/KEY, their
bytes, and NAME/byteorder. Before, a row of pickles, the fourth of them the content and the fifth the keys of the
storages, and then the storages, each after its number of elements in 8 bytes. The released checkpoints lie in a second
zip archive.
"""

import dataclasses
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from clmr_tf.errors import UsageError
from clmr_tf.pytorch.storages import STORAGE_DTYPES, Storages, StoredTensor, rebuild_tensor
from clmr_tf.restricted_pickle import PlainMapping, RestrictedUnpickler, UnknownNameError

_LEGACY_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_CHECKPOINT_SUFFIXES = (".pt", ".pth", ".ckpt", ".tar")
_MAX_BYTES = 2**31
"""Of a file inside a zip archive; the released checkpoints have 30 MB, and a few bytes may inflate to any number."""

# What Lightning writes beside the weights is let through, but empty.
_STAND_INS: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("collections", "OrderedDict"): PlainMapping,
    ("argparse", "Namespace"): PlainMapping,
    ("torch", "Size"): lambda shape: shape,
    ("torch", "device"): lambda *name: name,
    ("pytorch_lightning.utilities.parsing", "AttributeDict"): PlainMapping,
    ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"): PlainMapping,
    ("pytorch_lightning.callbacks.early_stopping", "EarlyStopping"): PlainMapping,
    **{("torch", name): name for name in STORAGE_DTYPES},
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
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); give a checkpoint of PyTorch.") from error
    try:
        return _read(content)
    except UnknownNameError as error:
        raise UsageError(
            f"{path} is refused, since {_in_one_line(error)}, which weights do not need; nothing of it was run, and if "
            "you trust it, save its state dict by itself."
        ) from error
    except _UnclearError as error:
        raise UsageError(f"{path} holds {error}; unpack it and give one checkpoint.") from error
    # A damaged file fails in every way there is.
    except Exception as error:
        reason = _in_one_line(error) or type(error).__name__
        raise UsageError(f"{path} is no checkpoint of PyTorch that can be read ({reason}); fetch it again.") from error


class _UnclearError(Exception):
    """A zip archive does not hold exactly one checkpoint, but what this says."""


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _read(content: bytes, *, is_inside: bool = False) -> Checkpoint:
    if not content.startswith(b"PK"):
        return _read_legacy(io.BytesIO(content))
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise ValueError("it is a zip archive that is cut short")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if pickles:
            return _read_archive(archive, pickles[0].removesuffix("data.pkl"))
        found = [name for name in names if name.endswith(_CHECKPOINT_SUFFIXES) and not name.startswith("__MACOSX")]
        if len(found) != 1 or is_inside:
            listed = ", ".join(found or names[:3]) or "nothing"
            raise _UnclearError(listed)
        return _read(_member(archive, found[0]), is_inside=True)


def _read_archive(archive: zipfile.ZipFile, root: str) -> Checkpoint:
    storages = Storages()
    content = RestrictedUnpickler(io.BytesIO(_member(archive, f"{root}data.pkl")), _STAND_INS, storages.declare).load()
    # The file of that name came with PyTorch 2.1; before, the order was that of the machine, which was little.
    if f"{root}byteorder" in archive.namelist() and _member(archive, f"{root}byteorder") == b"big":
        storages.byte_order = ">"
    for key in storages.types:
        storages.fill(key, _member(archive, f"{root}data/{key}"))
    return _checkpoint_of(content, storages)


def _read_legacy(file: BinaryIO) -> Checkpoint:
    storages = Storages()
    if file.read(1) != pickle.PROTO:
        raise ValueError("it is neither a zip archive nor what PyTorch wrote before version 1.6")
    file.seek(0)

    def unpickle() -> Any:
        return RestrictedUnpickler(file, _STAND_INS, storages.declare).load()

    if unpickle() != _LEGACY_MAGIC_NUMBER:
        raise ValueError("it is a pickle, but not of PyTorch")
    unpickle()
    machine = unpickle()
    content, keys = unpickle(), unpickle()
    is_little = machine["little_endian"]
    storages.byte_order = "<" if is_little else ">"
    for key in keys:
        num_elements = int.from_bytes(file.read(8), "little" if is_little else "big")
        if num_elements != storages.types[key][1]:
            raise ValueError(f"the storage {key} has {num_elements} elements instead of {storages.types[key][1]}")
        storages.fill(key, file.read(storages.num_bytes(key)))
    return _checkpoint_of(content, storages)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _MAX_BYTES:
        raise ValueError(f"{name} would have more than {_MAX_BYTES} bytes")
    return archive.read(name)


def _checkpoint_of(content: Any, storages: Storages) -> Checkpoint:
    # By the methods of dict itself, since a pickle may have given the stand-ins others.
    outside = dict(dict.items(content))
    inside = outside.get("state_dict")
    state = outside if inside is None else dict(dict.items(inside))
    tensors = {name: storages.array_of(one) for name, one in state.items() if isinstance(one, StoredTensor)}
    if not tensors or any(not isinstance(name, str) for name in tensors):
        raise ValueError("there is no state dict in it")
    names = ("epoch", "global_step", "pytorch-lightning_version")
    facts = {name: outside[name] for name in names if type(outside.get(name)) in (int, str)}
    return Checkpoint(tensors, facts)
