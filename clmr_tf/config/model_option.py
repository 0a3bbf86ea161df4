"""The option --model of the commands that use a model: its default, and what is said where there is none."""

from pathlib import Path

from clmr_tf.errors import UsageError

DEMO_MODEL = Path("savedmodels/demo")
"""The default of commands that take a model: it comes with a checkout of the code, and no installation has it."""


def require_model(folder: Path) -> Path:
    """The folder that --model names, from the home of the user on; to be asked before TensorFlow is loaded.

    Raises:
        UsageError: If there is nothing; of the default, that it has to be given.
    """
    expanded = folder.expanduser()
    if not expanded.exists():
        what = "--model is needed, since the demo model" if folder == DEMO_MODEL else "The model"
        raise UsageError(
            f"{what} {folder} is not there; give with --model a folder that `python -m clmr_tf.export` or "
            "`python -m clmr_tf.train` wrote."
        )
    return expanded
