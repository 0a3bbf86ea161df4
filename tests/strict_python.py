"""The command that tests start Python with: warnings are errors, except those that pyproject.toml ignores too."""

import sys

STRICT_PYTHON = [
    sys.executable,
    *("-W", "error"),
    *("-W", "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    # The -W option takes no patterns.
    *("-W", "ignore::DeprecationWarning:gast.astn"),
]
