"""Keys of a state dict: how errors name them, and what wraps them."""

import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clmr_tf.errors import UsageError

# Of DataParallel and DistributedDataParallel, and of torch.compile.
_WRAPPERS = frozenset({"module", "_orig_mod"})
# In errors.
_NUM_LISTED_KEYS, _LONGEST_KEY = 3, 80


def some_keys(keys: Iterable[Any]) -> str:
    """A few of the keys of a file for an error, such as "`a`, `b`, `c` and 40 more"; "no key" if there are none."""
    found = list(keys)
    # Whatever a file says must not reach the terminal as it is.
    listed = ", ".join(
        f"`{key}`" if isinstance(key, str) and key.isprintable() and len(key) <= _LONGEST_KEY else reprlib.repr(key)
        for key in found[:_NUM_LISTED_KEYS]
    )
    more = f" and {len(found) - _NUM_LISTED_KEYS} more" if len(found) > _NUM_LISTED_KEYS else ""
    return f"{listed}{more}" if found else "no key"


def unwrapped(tensors: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """The tensors without what wrapped the network in their keys.

    Args:
        tensors: A state dict.
        path: What to call it in errors.

    Raises:
        UsageError: If two keys are the same then.
    """
    names = {key: ".".join(part for part in key.split(".") if part not in _WRAPPERS) for key in tensors}
    repeated = [key for key, name in names.items() if name != key and name in tensors]
    if repeated or len(set(names.values())) < len(names):
        raise UsageError(
            f"{path} has the same weights wrapped and not wrapped, such as {some_keys(repeated or names)}; give a "
            "checkpoint of one network."
        )
    return {names[key]: tensor for key, tensor in tensors.items()}
