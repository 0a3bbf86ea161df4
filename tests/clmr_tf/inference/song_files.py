"""Real songs of many formats, and what the prepared reader makes of them."""

from pathlib import Path

import numpy as np
import soundfile
import soxr

from clmr_tf.audio.downmix import mono_weights
from tests.synthetic import melody

CONSTANT = {"format": "MP3", "bitrate_mode": "CONSTANT"}
VARIABLE = {"format": "MP3", "bitrate_mode": "VARIABLE"}
# name: (rate, channels, how to write it)
FILES = {
    "constant.mp3": (44100, 2, CONSTANT | {"compression_level": 0.5}),
    "variable.mp3": (44100, 2, VARIABLE | {"compression_level": 0.6}),
    # 32 kbit/s and below: frames borrow bits from many frames before them, which a seek has to decode as well.
    "low-16k.mp3": (16000, 1, CONSTANT | {"compression_level": 0.99}),
    "low-22k.mp3": (22050, 2, CONSTANT | {"compression_level": 0.99}),
    "32k.mp3": (32000, 2, VARIABLE | {"compression_level": 0.6}),
    "44k.ogg": (44100, 2, {"format": "OGG", "subtype": "VORBIS"}),
    "22k.ogg": (22050, 1, {"format": "OGG", "subtype": "VORBIS"}),
    "16-bit.flac": (44100, 2, {"subtype": "PCM_16"}),
    "24-bit-48k.flac": (48000, 2, {"subtype": "PCM_24"}),
    "8-bit.flac": (22050, 1, {"subtype": "PCM_S8"}),
    "16-bit-44k.wav": (44100, 2, {"subtype": "PCM_16"}),
    "24-bit-96k.wav": (96000, 2, {"subtype": "PCM_24"}),
    "8-bit-8k.wav": (8000, 1, {"subtype": "PCM_U8"}),
    "float.wav": (22050, 2, {"subtype": "FLOAT"}),
    "six-channels.wav": (22050, 6, {"format": "WAVEX", "subtype": "PCM_16"}),
}


def write_song(path: Path, rate_hz: int, num_channels: int, options: dict, seconds: float = 4.0) -> None:
    length = round(seconds * rate_hz)
    channels = [melody(7 + 5 * channel, length, rate_hz) / (1 + channel) for channel in range(num_channels)]
    soundfile.write(path, np.stack(channels, axis=1), rate_hz, **options)


def prepared(path: Path, sample_rate_hz: int = 22050) -> np.ndarray:
    """What the prepared reader holds of a file: float64 [num_samples]."""
    samples, rate_hz = soundfile.read(path, always_2d=True)
    return soxr.resample(samples @ mono_weights(samples.shape[1]), rate_hz, sample_rate_hz, quality="VHQ")


def assert_same(crop: np.ndarray, expected: np.ndarray) -> None:
    expected = np.clip(expected, -1, 1)
    assert np.corrcoef(crop, expected)[0, 1] > 0.99999
    error = np.sqrt(np.mean((crop - expected) ** 2) / np.mean(expected**2))
    assert error < 2e-3, error


def write_songs(folder: Path) -> Path:
    """Writes all FILES and returns the folder."""
    for name, song in FILES.items():
        write_song(folder / name, *song)
    return folder
