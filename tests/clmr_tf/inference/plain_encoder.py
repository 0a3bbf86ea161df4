"""An encoder without a network, for tests of what happens to its embeddings."""

import numpy as np

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
