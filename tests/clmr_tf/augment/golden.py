"""The golden numbers of tests/golden and the clips of the demo corpus that some of them belong to."""

from pathlib import Path

import numpy as np
import soundfile

TESTS = Path(__file__).parents[2]
GOLDEN = TESTS / "golden"
AUDIO = TESTS.parent / "pipelines" / "demo_data" / "audio"
RATE_HZ = 22_050
NUM_SAMPLES = 59_049


def read_clip(file, first_sample):
    """A clip of the demo corpus, float32 [59049]."""
    samples, rate_hz = soundfile.read(AUDIO / file, NUM_SAMPLES, first_sample, dtype="float32")
    assert rate_hz == RATE_HZ and len(samples) == NUM_SAMPLES
    return samples


def load_golden(name):
    """The arrays of a file of golden numbers, and the clips that it names, if any, float32 [clips, 59049]."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = dict(file)
    clips = zip(arrays.pop("clip_files", ()), arrays.pop("clip_first_samples", ()), strict=True)
    return arrays, np.array([read_clip(*clip) for clip in clips])
