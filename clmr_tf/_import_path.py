"""Which folders Python imports from when one of the commands is started."""

import sys
from pathlib import Path


def leave_out_current_folder() -> None:
    """Takes the current folder off the import path where `python -m` put it there and it is not the one we are in.

    Otherwise whatever lies in it and is called `pipelines`, `rich` or `yaml.py` is imported in place of what was
    installed. To be called by a package's `__init__`, which `python -m PACKAGE.COMMAND` imports first.
    """
    # As long as Python looks for the module to run.
    if sys.argv[:1] != ["-m"] or sys.flags.safe_path or not sys.path:
        return
    try:
        current = Path.cwd()
    except OSError:
        # It was removed.
        return
    if Path(sys.path[0]) == current != Path(__file__).resolve().parents[1]:
        del sys.path[0]
