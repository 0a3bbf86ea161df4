"""Audio and seeds to augment."""

import numpy as np
import pytest


@pytest.fixture
def awkward_audio():
    """Clips on which careless arithmetic divides by zero or overflows, float32 [8, 12000].

    Two each of silence, a constant, an impulse and a square wave, in this order.
    """
    audio = np.zeros([8, 12_000], np.float32)
    audio[2:4] = 0.7
    audio[4:6, 5000] = 1.0
    audio[6:] = np.where(np.arange(12_000) // 50 % 2, 1.0, -1.0)
    return audio


@pytest.fixture
def noise_clips():
    """Eight clips of independent noise at different levels, float32 [8, 12000]."""
    generator = np.random.default_rng(7)
    levels = np.linspace(0.01, 0.3, 8)[:, None]
    return (generator.standard_normal([8, 12_000]) * levels).astype(np.float32)


@pytest.fixture
def make_seeds():
    """Makes seed pairs as the data pipeline does: all 2 x 32 bits random."""

    def make(num_views, stream=0):
        generator = np.random.default_rng([2021, stream])
        return generator.integers(-(2**31), 2**31, [num_views, 2]).astype(np.int32)

    return make
