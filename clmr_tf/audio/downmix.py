"""Mixing channels to mono: the mean of mono and stereo, and of surround sound the stereo mix of ITU-R BS.775."""

import functools
from collections.abc import Sequence

import numpy as np

# Weights of the two channels of the mix (ITU-R BS.775-3, annex 4, table 2), averaged. The low-frequency effects are
# left out, as FFmpeg does.
_WEIGHTS = {
    "FL": 0.5,
    "FR": 0.5,
    "FLC": 0.5,
    "FRC": 0.5,
    "FC": np.sqrt(0.5),
    "BC": 0.5,
    "BL": 0.5 * np.sqrt(0.5),
    "BR": 0.5 * np.sqrt(0.5),
    "SL": 0.5 * np.sqrt(0.5),
    "SR": 0.5 * np.sqrt(0.5),
    "LFE": 0.0,
}
# What FFmpeg takes a number of channels for where a file does not say.
_DEFAULT_LAYOUTS = {
    3: "FL FR LFE",
    4: "FL FR FC BC",
    5: "FL FR FC BL BR",
    6: "FL FR FC LFE BL BR",
    7: "FL FR FC LFE BC SL SR",
    8: "FL FR FC LFE BL BR SL SR",
}


def mono_weights(num_channels: int) -> np.ndarray:
    """The weight of each channel of audio that does not say where its channels belong, float32 [num_channels].

    Three to eight channels are taken to be in FFmpeg's default order; of more than eight, the mean is taken.
    """
    return weights_of_channels(("?",) * num_channels)


@functools.cache
def weights_of_channels(names: Sequence[str]) -> np.ndarray:
    """The weight of each channel in a mono mix, float32 [len(names)].

    Args:
        names: Positions as FFmpeg names them ("FL", "LFE"). If the position of one of more than two is not known, all
            are taken to be in the default order.
    """
    if not set(names) <= _WEIGHTS.keys():
        names = _DEFAULT_LAYOUTS.get(len(names), "").split() or names
    if len(names) <= 2 or not set(names) <= _WEIGHTS.keys():
        return np.full(len(names), 1 / len(names), np.float32)
    return np.array([_WEIGHTS[name] for name in names], np.float32)


def mixed_to_mono(channels: np.ndarray, names: Sequence[str] | None = None) -> np.ndarray:
    """Mixes float32 [num_channels, num_samples] to float32 [num_samples].

    Args:
        channels: The audio.
        names: As of `weights_of_channels`; the default order if None.
    """
    if len(channels) == 1:
        return channels[0].copy()
    if len(channels) == 2:
        # Faster than a product, and exact.
        return (channels[0] + channels[1]) * np.float32(0.5)
    weights = mono_weights(len(channels)) if names is None else weights_of_channels(tuple(names))
    return weights @ channels
