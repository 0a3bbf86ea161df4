"""What --help imports. `lint-imports` checks which package may import which."""

import subprocess
import sys
from pathlib import Path

COMMANDS = ("train", "export", "probe", "embed", "tag", "similar", "augment", "convert", "report", "recipes")


def test_help_does_not_import_tensorflow():
    lines = [
        "import contextlib, importlib, io, sys",
        "from clmr_tf.console import run_command",
        f"for name in {COMMANDS}:",
        "    home = importlib.import_module(f'clmr_tf.{name}')",
        "    home = importlib.import_module(f'clmr_tf.{name}.__main__') if hasattr(home, '__path__') else home",
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):",
        "        run_command(home.main, ['--help'])",
        "print(sorted({'tensorflow', 'keras', 'sklearn', 'matplotlib'} & set(sys.modules)))",
    ]
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
