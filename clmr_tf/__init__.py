"""CLMR (Contrastive Learning of Musical Representations) in Keras and TensorFlow.

The public names, imported on first use:

    SampleCNN        the encoder, a Keras model
    nt_xent          the contrastive loss
    load_encoder     a trained encoder from a model folder or a run folder
    augment          the augmentations and their chain
    metrics          ROC-AUC and average precision as in the paper
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from clmr_tf.quiet_start import hide_tensorflow_start


def _leave_out_current_folder() -> None:
    """Removes the current folder from the import path if `python -m` added it and it does not hold this package.

    Otherwise a folder `pipelines` or a file `yaml.py` in it would shadow installed packages.
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


_leave_out_current_folder()

# TensorFlow reads this when it is imported. Its C++ side logs harmless start-up messages as errors; real errors are
# raised as exceptions anyway.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# TensorFlow enables this by default only for CPUs with AVX-512; with AVX2 alone, it halves the training time.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

__version__ = "0.1.0"
__all__ = ["SampleCNN", "augment", "load_encoder", "metrics", "nt_xent"]

_MODULES = {
    "SampleCNN": "clmr_tf.models.sample_cnn",
    "load_encoder": "clmr_tf.inference.encoder",
    "nt_xent": "clmr_tf.models.nt_xent",
}


def __getattr__(name: str) -> Any:
    hide_tensorflow_start()
    if name in _MODULES:
        value = getattr(importlib.import_module(_MODULES[name]), name)
    elif name in __all__:
        value = importlib.import_module(f"clmr_tf.{name}")
    else:
        raise AttributeError(f"module 'clmr_tf' has no attribute {name!r}")
    globals()[name] = value
    return value
