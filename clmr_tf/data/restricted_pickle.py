"""Reads pickles of plain data, such as the split files of the Million Song Dataset, without running their code.

A pickle is a program: it can name any function of any module and call it. This reader accepts only the names that its
caller expects, such as those that NumPy writes for an array, and replaces them with classes and functions that only
store their arguments. Every other name is rejected before anything is imported or called.
"""

import pickle
import reprlib
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from clmr_tf.errors import UsageError

# NumPy's names of the dtypes that a stored array may have.
_NUMBER_TYPES = frozenset({"b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"})


def load_plain_pickle(path: Path) -> Any:
    """Loads dicts, lists, tuples, text, numbers and numeric arrays, written by Python 2 or 3.

    Byte strings of Python 2 become text, read as Latin-1; arrays become `StoredArray`.

    Raises:
        UsageError: If the file cannot be read, is not a pickle, or holds anything else.
    """
    try:
        with path.open("rb") as file:
            return RestrictedUnpickler(file, _NUMPY_STAND_INS).load()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); see --help for where it comes from.") from error
    # A damaged pickle may raise any error; none of its code was run.
    except Exception as error:
        raise UsageError(f"{path} is not a pickle of plain data ({error}); fetch it again.") from error


class PlainMapping(dict):
    """Replaces dictionary subclasses and objects that are not needed; keeps only dictionary items."""

    def __init__(self, *_: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        """Discards the attributes."""


class StoredArray:
    """The contents of a pickled NumPy array, see `to_array`."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()
        self._dtype: np.dtype | None = None
        self._fortran_order = False
        self._bytes = b""

    def __setstate__(self, state: tuple[int, tuple[int, ...], "_StoredType", bool, bytes | str]) -> None:
        _, self._shape, stored_type, self._fortran_order, raw = state
        if not isinstance(stored_type, _StoredType) or not isinstance(raw, bytes | str):
            raise TypeError("an array that is not numeric")
        self._dtype = stored_type.dtype()
        self._bytes = raw.encode("latin1") if isinstance(raw, str) else raw

    def to_array(self) -> np.ndarray:
        """The array, which is read-only.

        Raises:
            ValueError: If shape, dtype and bytes do not match.
        """
        if self._dtype is None:
            raise ValueError("an array without content")
        order = "F" if self._fortran_order else "C"
        return np.frombuffer(self._bytes, self._dtype).reshape(self._shape, order=order)


class _StoredType:
    """Replaces numpy.dtype."""

    def __init__(self, name: str, *_: object) -> None:
        if name not in _NUMBER_TYPES:
            raise TypeError(f"an array of the type {reprlib.repr(name)}")
        self._name = name
        self._byte_order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._byte_order = state[1] if state[1] in ("<", ">") else "<"

    def dtype(self) -> np.dtype:
        return np.dtype(self._name).newbyteorder(self._byte_order)


def _stored_type(name: str, *arguments: object) -> _StoredType | PlainMapping:
    """Replaces numpy.dtype where other dtypes are ignored."""
    return _StoredType(name, *arguments) if name in _NUMBER_TYPES else PlainMapping()


class _ArrayClass:
    """Replaces numpy.ndarray, which occurs only as an argument."""


def _reconstruct(*_: object) -> StoredArray:
    """Replaces NumPy's function that creates the empty array to be filled afterwards."""
    return StoredArray()


def _scalar(stored_type: _StoredType | PlainMapping, raw: bytes | str | None = None) -> int | float | None:
    """Replaces NumPy's function that creates a scalar; numbers become Python numbers, everything else becomes None."""
    if not isinstance(stored_type, _StoredType):
        return None
    data = raw.encode("latin1") if isinstance(raw, str) else raw
    return np.frombuffer(data, stored_type.dtype(), count=1)[0].item()


def _encode(text: str, encoding: str) -> bytes:
    """Replaces codecs.encode, with which Python 3 writes bytes in the protocols of Python 2."""
    if encoding != "latin1":
        raise TypeError(f"the encoding {encoding!r}")
    return text.encode("latin1")


NUMPY_SCALARS: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy", "dtype"): _stored_type,
    ("_codecs", "encode"): _encode,
}
"""Replacements that turn NumPy's numeric scalars into Python numbers, and all other scalars into None."""
_NUMPY_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _ArrayClass,
    ("numpy", "dtype"): _StoredType,
    ("_codecs", "encode"): _encode,
}


class UnknownNameError(pickle.UnpicklingError):
    """A pickle refers to a name that is not allowed.

    Args:
        name: The name.
        keys: The strings on the stack, among them the keys of the dictionaries being read.
    """

    def __init__(self, name: str, keys: Sequence[str] = ()) -> None:
        super().__init__(f"it refers to {name}")
        self.keys = tuple(keys)


# Python's implementation, because a damaged index would make the C implementation allocate all memory.
class RestrictedUnpickler(pickle._Unpickler):
    """Unpickles with replacements only.

    Args:
        file: Positioned at the start of the pickle; afterwards at its end.
        stand_ins: Replacements by module and name: a string, `PlainMapping`, or a function, which the pickle may call
            with any arguments.
        load_persistent: Loads an object outside of the pickle from its persistent id; None rejects these.

    Raises:
        UnknownNameError: From `load`, for any other name; nothing was called.
        Exception: Of any type from `load`, for a damaged pickle.
    """

    def __init__(
        self,
        file: BinaryIO,
        stand_ins: Mapping[tuple[str, str], Any],
        load_persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(file, encoding="latin1")
        self._stand_ins = stand_ins
        self._load_persistent = load_persistent

    def _refuse_buffer(self) -> None:
        raise pickle.UnpicklingError("it contains a buffer, which plain data does not need")

    # The only opcode that allocates the memory that it claims to need before it reads.
    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _refuse_buffer}

    def load(self) -> Any:
        """Returns the contents of the pickle."""
        try:
            return super().load()
        except (LookupError, EOFError, AttributeError, struct.error) as error:
            raise pickle.UnpicklingError("it is damaged or truncated") from error

    def find_class(self, module_name: str, global_name: str) -> Any:
        """The replacement for a name."""
        stand_in = self._stand_ins.get((module_name, global_name))
        if stand_in is None:
            unpickler: Any = self
            pending = (one for level in (*unpickler.metastack, unpickler.stack) for one in level)
            raise UnknownNameError(f"{module_name}.{global_name}", [one for one in pending if type(one) is str])
        # A pickle may set attributes of what it receives, so it gets a new class or function every time.
        if stand_in is PlainMapping:
            return type("PlainMapping", (PlainMapping,), {})
        if isinstance(stand_in, str):
            return stand_in

        def call(*arguments: object) -> object:
            return stand_in(*arguments)

        return call

    def persistent_load(self, pid: Any) -> Any:
        """Loads an object outside of the pickle."""
        if self._load_persistent is None:
            raise pickle.UnpicklingError(f"it refers to an object outside the file, {reprlib.repr(pid)}")
        return self._load_persistent(pid)
