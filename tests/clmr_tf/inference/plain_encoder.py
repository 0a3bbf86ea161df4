"""An encoder without a network and songs of a few of its short windows, for tests of what happens to embeddings."""

import contextlib
from pathlib import Path

import numpy as np
import soundfile

from clmr_tf.audio.decoding import open_audio
from tests.synthetic import melody

RATE_HZ = 22_050
CLIP = 5_120
DIM = 512


class PlainEncoder:
    """Averages ten samples at a time; each embedding depends on its own window only."""

    clip_num_samples = CLIP
    sample_rate_hz = RATE_HZ
    embedding_dim = DIM

    def __init__(self, model_hash: str = "plain") -> None:
        self.model_hash = model_hash
        self.num_encoded = 0

    def hop_num_samples(self, hop_seconds: float | None) -> int:
        return CLIP if hop_seconds is None else round(hop_seconds * RATE_HZ)

    def encode_clips(self, audio: np.ndarray, batch_size: int) -> np.ndarray:
        assert 1 <= len(audio) <= batch_size
        self.num_encoded += len(audio)
        return audio.reshape(len(audio), DIM, -1).mean(axis=2)


class DecoderInThisProcess(contextlib.AbstractContextManager):
    """Stands for `IsolatedDecoder`, whose process takes a second to start."""

    open = staticmethod(open_audio)

    def __exit__(self, *_: object) -> None:
        pass


def write_song(path: Path, seed: int, num_windows: float = 3) -> None:
    soundfile.write(path, melody(seed, round(num_windows * CLIP)), RATE_HZ)
