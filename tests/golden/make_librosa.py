"""Makes reference_log_mel.npz: librosa's mel spectrogram of `tests.reference.mel_cnn.music`, every tenth frame.

python -m venv other && other/bin/pip install librosa==0.11.0 && other/bin/python tests/golden/make_librosa.py
"""

import sys
from pathlib import Path

import librosa
import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.reference.mel_cnn import music  # noqa: E402 - the package is not installed there

# Samples of a clip, and of a window, by sample rate in Hz.
SHAPES = {22050: (59049, 1024), 16000: (43470, 744), 8000: (20736, 372)}

golden = {}
for rate_hz, (num_samples, window) in SHAPES.items():
    mel = librosa.feature.melspectrogram(
        y=music(num_samples, rate_hz).astype(np.float64),
        sr=rate_hz,
        n_fft=window,
        hop_length=window // 2,
        center=False,
        n_mels=64,
    )
    golden[f"log_mel_{rate_hz}"] = np.log(1 + 10_000 * mel).transpose(0, 2, 1)[:, ::10].astype(np.float32)
np.savez_compressed(HERE / "reference_log_mel.npz", **golden)
