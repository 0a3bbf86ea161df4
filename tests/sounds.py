"""Test sounds and functions that write them to files."""

import os
from pathlib import Path

import av
import numpy as np
import soundfile


def tone(frequency_hz: float, seconds: float, rate_hz: int, peak: float = 0.5) -> np.ndarray:
    """Returns a sine, float32 [num_samples]."""
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    return (peak * np.sin(2 * np.pi * frequency_hz * times)).astype(np.float32)


def noise(seconds: float, rate_hz: int, seed: int, level: float = 0.1) -> np.ndarray:
    """Returns white Gaussian noise with an RMS of `level`, float32 [num_samples]."""
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal(round(seconds * rate_hz))).astype(np.float32)


def write_sound(path: Path | bytes, samples: np.ndarray, rate_hz: int, kind: str, subtype: str | None = None) -> None:
    """Writes [num_samples] or [num_samples, num_channels] with libsndfile."""
    num_channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(os.fsencode(path), "w", rate_hz, num_channels, subtype, format=kind) as file:
        # libsndfile 1.2.2 overflows its stack when it encodes a minute of Vorbis in one call.
        for start in range(0, len(samples), 2**15):
            file.write(samples[start : start + 2**15])


def write_encoded(path: Path, channels: np.ndarray, rate_hz: int, codec: str, container: str) -> None:
    """Writes float32 [num_channels, num_samples], mono or stereo, with FFmpeg."""
    layout = "mono" if len(channels) == 1 else "stereo"
    with path.open("wb") as file, av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate_hz, layout=layout)
        stream.bit_rate = 192_000
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels), "fltp", layout)
        frame.sample_rate = rate_hz
        to_codec = av.AudioResampler(stream.format.name, layout, rate_hz, frame_size=stream.codec_context.frame_size)
        for converted in [*to_codec.resample(frame), *to_codec.resample(None)]:
            output.mux(stream.encode(converted))
        output.mux(stream.encode(None))


def frequency_of(samples: np.ndarray, rate_hz: int) -> float:
    """Returns the frequency in hertz of the strongest partial."""
    windowed = samples * np.hanning(len(samples))
    spectrum = np.log(np.abs(np.fft.rfft(windowed)) + 1e-12)
    peak = int(np.argmax(spectrum[1:-1])) + 1
    left, middle, right = spectrum[peak - 1 : peak + 2]
    return (peak + (left - right) / (2 * (left - 2 * middle + right))) * rate_hz / len(samples)


def level_db(samples: np.ndarray) -> float:
    """Returns the RMS in dB relative to full scale; -300 for silence."""
    return 10 * np.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-30)
