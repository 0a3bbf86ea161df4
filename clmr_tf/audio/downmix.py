"""Mixing to mono: the mean of two channels; for surround sound the mean of the stereo mix of ITU-R BS.775."""

import functools
from collections.abc import Sequence

import numpy as np

# Weights of the stereo mix (ITU-R BS.775-3, annex 4, table 2), averaged over its two channels. The low-frequency
# effects are left out, as in FFmpeg.
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
# FFmpeg's default layouts by the number of channels.
_DEFAULT_LAYOUTS = {
    3: "FL FR LFE",
    4: "FL FR FC BC",
    5: "FL FR FC BL BR",
    6: "FL FR FC LFE BL BR",
    7: "FL FR FC LFE BC SL SR",
    8: "FL FR FC LFE BL BR SL SR",
}


def mono_weights(num_channels: int) -> np.ndarray:
    """The weight of each channel in a mono mix when the layout is unknown, float32 [num_channels].

    Three to eight channels are assumed to be in FFmpeg's default order; more than eight are averaged.
    """
    return weights_of_channels(("?",) * num_channels)


@functools.cache
def weights_of_channels(names: Sequence[str]) -> np.ndarray:
    """The weight of each channel in a mono mix, float32 [len(names)].

    Args:
        names: Positions in FFmpeg's notation ("FL", "LFE"). If any is unknown, the default order is assumed.
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
        names: See `weights_of_channels`; None for the default order.
    """
    if len(channels) == 1:
        return channels[0].copy()
    if len(channels) == 2:
        # Faster than a matrix product, and exact.
        return (channels[0] + channels[1]) * np.float32(0.5)
    weights = mono_weights(len(channels)) if names is None else weights_of_channels(tuple(names))
    return weights @ channels
