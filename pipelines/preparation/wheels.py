"""Downloads Python packages with pip, without their dependencies and without installing them."""

import subprocess
import sys
import tempfile
from pathlib import Path

from clmr_tf.console import stderr
from clmr_tf.errors import ClmrError
from clmr_tf.files import put_in_place


def fetch_wheel(name: str, version: str, size: str, folder: Path, advice: str) -> Path:
    """Puts the wheel of a package into a folder; pip builds it if there is none for this Python.

    Args:
        name: Name of the package.
        version: Its version.
        size: Its size in words, for the message.
        folder: Created if it does not exist.
        advice: The end of the message if pip cannot get it.

    Returns:
        The file.

    Raises:
        ClmrError: If pip cannot get or build it.
    """
    stderr.print(f"Fetching {name} {version} with pip, {size}", markup=False)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    with tempfile.TemporaryDirectory(dir=folder) as arriving:
        finished = subprocess.run(
            [*command, "--wheel-dir", arriving, f"{name}=={version}"], capture_output=True, text=True, check=False
        )
        wheel = next(Path(arriving).glob(f"{name}-{version}-*.whl"), None)
        if finished.returncode or wheel is None:
            reason = (finished.stderr.strip().splitlines() or ["no message"])[-1]
            raise ClmrError(f"pip could not fetch {name} {version} ({reason}); {advice}.")
        put_in_place(wheel, folder / wheel.name)
    return folder / wheel.name
