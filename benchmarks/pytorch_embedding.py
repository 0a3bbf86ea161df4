"""Embeds decoded audio with the encoder as plain PyTorch layers.

`benchmarks.embed` starts it with a Python that has PyTorch and NumPy, and sends it commands.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.pytorch_step import CLIP_NUM_SAMPLES, build_encoder
from benchmarks.worker import reserve_standard_output, seconds_of, serve


class Embedding:
    """An untrained encoder, and the recordings in a folder of .npy files, float32 [samples]."""

    def __init__(self, width: float, audio: Path, batch_size: int) -> None:
        torch.manual_seed(0)
        self._encoder = build_encoder(width).eval()
        self._recordings = [np.load(path) for path in sorted(audio.glob("*.npy"))]
        self._batch_size = batch_size
        self._encode(1)

    @torch.inference_mode()
    def _encode(self, num_clips: int) -> None:
        self._encoder(torch.zeros(num_clips, 1, CLIP_NUM_SAMPLES)).numpy()

    @torch.inference_mode()
    def embed(self) -> dict[str, Any]:
        """Returns the wall-clock seconds for embedding all windows of all recordings, and their number."""
        begin, num_windows = time.perf_counter(), 0
        for samples in self._recordings:
            count = len(samples) // CLIP_NUM_SAMPLES
            windows = torch.from_numpy(samples[: count * CLIP_NUM_SAMPLES]).reshape(count, 1, CLIP_NUM_SAMPLES)
            for batch in windows.split(self._batch_size):
                num_windows += len(self._encoder(batch).numpy())
        return {"seconds": time.perf_counter() - begin, "num_windows": num_windows}

    def windows(self, num_clips: int, repetitions: int) -> dict[str, Any]:
        """Returns the wall-clock seconds of each call with `num_clips` windows."""
        return {"seconds": seconds_of(lambda: self._encode(num_clips), repetitions)}


def main() -> None:
    """Serves the commands of `benchmarks.embed`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pytorch_embedding", description=__doc__)
    parser.add_argument("--width", type=float, required=True)
    parser.add_argument("--audio", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--num-threads", type=int, required=True)
    options = parser.parse_args()
    reserve_standard_output()
    torch.set_num_threads(options.num_threads)
    embedding = Embedding(options.width, options.audio, options.batch_size)
    serve({"embed": embedding.embed, "windows": embedding.windows}, about={"version": torch.__version__})


if __name__ == "__main__":
    main()
