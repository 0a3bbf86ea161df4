"""Which revision of this project's source code is running."""

import os
import subprocess
from pathlib import Path

_TREE = Path(__file__).resolve().parents[1]


def git_revision(tree: Path = _TREE) -> str | None:
    """Revision of the source tree, with "-changed" if files differ from it; None outside of a checkout of this project.

    Args:
        tree: Folder that `clmr_tf` is imported from. A repository that merely has it somewhere below, such as in a
            virtual environment, is another project's, and its revision says nothing about this code.
    """
    # A hook or an alias of git names the repository that it is for.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tree), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        is_ours = '"clmr_tf"' in (tree / "setup.py").read_text(encoding="utf-8")
        if not is_ours or Path(git("rev-parse", "--show-toplevel")).resolve() != tree.resolve():
            return None
        git("ls-files", "--error-unmatch", "setup.py", f"clmr_tf/{Path(__file__).name}")
        return git("describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=-changed") or None
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
