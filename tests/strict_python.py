"""How tests start a Python of their own: warnings are errors there, too, but for those that pyproject.toml names."""

import sys

STRICT_PYTHON = [
    sys.executable,
    *("-W", "error"),
    *("-W", "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    # The command line takes no patterns.
    *("-W", "ignore::DeprecationWarning:gast.astn"),
]
