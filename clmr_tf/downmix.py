"""What each channel of a recording counts for when it is mixed to mono."""

import math

import numpy as np

# ITU-R BS.775: a centre reaches both sides of a stereo mix at -3 dB, a surround its own side at -3 dB, and the
# low-frequency channel neither; mono is the mean of the two sides.
_WEIGHTS = {
    "FL": 0.5,
    "FR": 0.5,
    "FC": math.sqrt(0.5),
    "LFE": 0.0,
    "BC": 0.5,
    "BL": 0.5 * math.sqrt(0.5),
    "BR": 0.5 * math.sqrt(0.5),
    "SL": 0.5 * math.sqrt(0.5),
    "SR": 0.5 * math.sqrt(0.5),
}
# The layouts that ffmpeg assumes where a file says how many channels it has and not which.
_LAYOUTS = {
    3: "FL FR LFE",
    4: "FL FR FC BC",
    5: "FL FR FC BL BR",
    6: "FL FR FC LFE BL BR",
    7: "FL FR FC LFE BC SL SR",
    8: "FL FR FC LFE BL BR SL SR",
}


def mono_weights(num_channels: int) -> np.ndarray:
    """Weights of the channels in a mix to mono, after ITU-R BS.775.

    The mix is not normalised, so it may exceed the range of its channels: music in the front pair keeps the level that
    it has in a stereo file.

    Args:
        num_channels: 1 or more. From 3 to 8 in the order of ffmpeg's default layouts; for any other count the mix is
            the plain mean.

    Returns:
        float32 [num_channels].

    Raises:
        ValueError: If there is no channel.
    """
    if num_channels < 1:
        raise ValueError(
            f"A recording must have at least 1 channel. Received: {num_channels}; give audio with channels."
        )
    layout = _LAYOUTS.get(num_channels)
    if layout is None:
        return np.full(num_channels, 1 / num_channels, np.float32)
    return np.array([_WEIGHTS[channel] for channel in layout.split()], np.float32)
