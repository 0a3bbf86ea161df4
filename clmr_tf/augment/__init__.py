"""Augmentations of audio in the graph: pure functions, and the chain that draws their parameters.

Everywhere `audio` is float32 [batch, samples] and a parameter float32 [batch], one value per example. NaN stays in its
own clip; the functions hand it on, the chain reports it. The names are loaded when they are first used, so that
`python -m clmr_tf.augment --help` does not wait for TensorFlow.
"""

import importlib
from typing import Any

_HOMES = {
    "AugmentationChain": "chain",
    "add_noise": "noise",
    "delay": "delays",
    "gain": "gain_polarity",
    "highpass": "filters",
    "lowpass": "filters",
    "pitch_shift": "pitch",
    "polarity": "gain_polarity",
    "reverb": "reverberation",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'clmr_tf.augment' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"clmr_tf.augment.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
