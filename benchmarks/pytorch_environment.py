"""Installs PyTorch into a temporary virtual environment for the benchmarks that compare with it."""

import subprocess
import sys
from pathlib import Path

PYTORCH_PACKAGES = ("torch==2.13.0", "numpy<3")
NOT_REQUESTED = "not requested"


def python_with_pytorch(folder: Path, absent: dict[str, str]) -> Path | None:
    """Installs PyTorch in a virtual environment in `folder`; on failure returns None, with the reason in `absent`."""
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, stdout=sys.stderr)
        subprocess.run([*pip, *PYTORCH_PACKAGES], check=True, stdout=sys.stderr)
    except subprocess.CalledProcessError:
        absent["pytorch"] = "it could not be installed"
        return None
    return python
