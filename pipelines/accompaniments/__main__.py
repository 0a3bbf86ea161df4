"""The command of the package."""

import sys

from clmr_tf.console import run_command
from pipelines.accompaniments import main

if __name__ == "__main__":
    sys.exit(run_command(main))
