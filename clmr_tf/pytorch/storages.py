"""Storages and tensors as PyTorch's files have them: flat runs of numbers, and strided views of them."""

import dataclasses
import math
import reprlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

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
