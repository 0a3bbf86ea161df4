"""The errors that commands turn into one sentence and an exit code."""


class ClmrError(Exception):
    """Something went wrong that the user can act on. The message says what, with what, and what to do."""

    exit_code = 1


class UsageError(ClmrError):
    """The command was asked for something that cannot be done as asked; nothing was started."""

    exit_code = 2
