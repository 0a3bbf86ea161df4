"""The option --model of the commands that use a model: its default, and the error if the model is missing."""

from pathlib import Path

from clmr_tf.errors import UsageError

DEMO_MODEL = Path("savedmodels/demo")
"""The default of commands that use a model. It is part of a checkout of the code, not of an installation."""


def require_model(folder: Path) -> Path:
    """The folder of --model with ~ expanded; call it before TensorFlow is imported.

    Raises:
        UsageError: If it does not exist.
    """
    expanded = folder.expanduser()
    if not expanded.exists():
        what = "--model is needed, since the demo model" if folder == DEMO_MODEL else "The model"
        raise UsageError(
            f"{what} {folder} does not exist; use --model with a folder that `python -m clmr_tf.export` or "
            "`python -m clmr_tf.train` wrote."
        )
    return expanded
