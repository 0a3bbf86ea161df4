"""Audio effects as pure functions, and the chain that draws their parameters at random and applies them in the graph.

In all functions, `audio` is float32 [batch, samples] and a parameter is float32 [batch], one value per example. A NaN
never spreads to another clip: the effects pass it through, and the chain reports it. Names are imported on first use,
so that `python -m clmr_tf.augment --help` does not load TensorFlow.
"""

import importlib
from typing import Any

_MODULES = {
    "AugmentationChain": "chain",
    "add_noise": "effects.noise",
    "delay": "effects.delay",
    "gain": "effects.gain",
    "highpass": "effects.filter",
    "lowpass": "effects.filter",
    "pitch_shift": "effects.pitch",
    "polarity": "effects.polarity",
    "reverb": "effects.reverb",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'clmr_tf.augment' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"clmr_tf.augment.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
