"""The errors that commands turn into one sentence and an exit code."""

import difflib
import os
from collections.abc import Iterable
from errno import EDQUOT, ENOSPC


class ClmrError(Exception):
    """A failure that the user can fix; its message says what failed, on what, and what to do."""

    exit_code = 1


class UsageError(ClmrError):
    """The command cannot do what was requested; nothing was started."""

    exit_code = 2


PACKAGES_OF_TRAIN = frozenset(
    {"tensorflow", "keras", "tensorboard", "sklearn", "matplotlib", "soundfile", "safetensors"}
)
"""What only `pip install '.[train]'` installs; inference works without them."""


def install_extra(name: str) -> str:
    """The end of a message about a package that an extra of this project installs."""
    return f"run `pip install '.[{name}]'` in a clone of this project"


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that the disk or the user's quota is full.

    TensorFlow raises its own errors, whose messages contain the system's message.
    """
    return any(os.strerror(number) in str(error) for number in (ENOSPC, EDQUOT))


def suggestion(name: object, names: Iterable[str], otherwise: str, *, prefix: str = "") -> str:
    """The end of a message about an unknown name: "did you mean ...?" if a known name is similar.

    Args:
        name: The unknown name.
        names: The known names.
        otherwise: The end of the message if no known name is similar.
        prefix: Written before the suggested name, and not compared.
    """
    nearest = difflib.get_close_matches(str(name), list(names), n=1)
    return f"did you mean `{prefix}{nearest[0]}`?" if nearest else otherwise
