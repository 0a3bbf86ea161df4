"""Removes the current folder from the import path of commands."""

import sys
from pathlib import Path


def leave_out_current_folder() -> None:
    """Removes the current folder from the import path if `python -m` added it and it does not hold this package.

    Otherwise a folder `pipelines` or a file `yaml.py` in it would shadow installed packages. Called by the package's
    `__init__`, which `python -m PACKAGE.COMMAND` imports first.
    """
    # sys.argv[0] is "-m" while Python locates the module to run.
    if sys.argv[:1] != ["-m"] or sys.flags.safe_path or not sys.path:
        return
    try:
        current = Path.cwd()
    except OSError:
        # The current folder no longer exists.
        return
    if Path(sys.path[0]) == current != Path(__file__).resolve().parents[1]:
        del sys.path[0]
