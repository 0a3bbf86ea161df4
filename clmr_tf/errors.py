"""The errors that commands turn into one sentence and an exit code."""

import difflib
from collections.abc import Iterable


class ClmrError(Exception):
    """Something went wrong that the user can act on. The message says what, with what, and what to do."""

    exit_code = 1


class UsageError(ClmrError):
    """The command was asked for something that cannot be done as asked; nothing was started."""

    exit_code = 2


def suggestion(name: object, names: Iterable[str], otherwise: str, *, prefix: str = "") -> str:
    """The last part of a sentence about an unknown name: the one that was meant if one is much like it.

    Args:
        name: What was received.
        names: What there is.
        otherwise: What to say where none is like it.
        prefix: Put before the one that was meant, and not compared.
    """
    nearest = difflib.get_close_matches(str(name), list(names), n=1)
    return f"did you mean `{prefix}{nearest[0]}`?" if nearest else otherwise
