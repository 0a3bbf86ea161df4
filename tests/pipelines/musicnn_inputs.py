"""What goes into musicnn's network in tests, and in the making of its golden numbers."""

import zlib

import numpy as np


def music() -> np.ndarray:
    """Ten seconds at 16 kHz: a soft rising chord over quiet noise, with clicks."""
    times = np.arange(160_000) / 16_000
    audio = 0.02 * np.random.default_rng(5).standard_normal(len(times))
    for number, start_hz in enumerate((110.0, 277.2, 1318.5)):
        audio += 0.08 / (number + 1) * np.sin(2 * np.pi * start_hz * (times + 0.02 * times**2))
    audio[:: 16_000 // 2] += 0.5
    return audio.astype(np.float32)


def noise_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights that keep activations in range, from the name and shape of each variable."""
    weights = {}
    for name, shape in shapes.items():
        noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
        kind = name.rsplit("/", 1)[1]
        if kind == "kernel":
            noise *= np.sqrt(2 / np.prod(shape[:-1]))
        elif kind in ("gamma", "moving_variance"):
            noise = 1 + 0.2 * np.abs(noise)
        else:
            noise *= 0.2
        weights[name] = noise.astype(np.float32)
    return weights
