"""Features of the tagger MTT_musicnn, as another model to compare an encoder with by the same protocol.

    python -m clmr_tf.probe --model savedmodels/mine --corpus debian_games --preset released \\
        --features pipelines.musicnn_features:MusicnnFeatures

The model was trained with the labels of MagnaTagATune. On pseudo-tags, which it made itself, its score is not that of a
competitor but how far a linear head on a clip of this length can agree with it.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import soxr

from pipelines import musicnn

_FOLDER = Path("corpora") / "downloads" / "musicnn"


class MusicnnFeatures:
    """What is before the last layer of MTT_musicnn, 200 numbers of a clip; see `clmr_tf.evaluation.sources`.

    The clip is resampled to 16 kHz. A clip of 2.68 seconds has 166 frames, where the model was trained with 187; its
    maxima and means over time take both.

    Args:
        clip_num_samples: Length of a clip.
        sample_rate_hz: Its rate.

    Raises:
        ClmrError: If the model cannot be fetched.
        UsageError: If the environment variable MUSICNN_WHEEL names another file than the package's.
    """

    kind = "musicnn"
    needs_standardising = False

    def __init__(self, clip_num_samples: int, sample_rate_hz: int) -> None:
        self.clip_num_samples, self.sample_rate_hz = clip_num_samples, sample_rate_hz
        self._built: keras.Model | None = None
        self.identity = hashlib.sha256(repr(sorted(self.describe().items())).encode()).hexdigest()

    def features_of(self, clips: np.ndarray) -> np.ndarray:
        """float32 [n, clip_num_samples] -> float32 [n, 200]."""
        windows = soxr.resample(clips.T, self.sample_rate_hz, musicnn.SAMPLE_RATE_HZ).T
        frames = musicnn.log_mel(windows)
        return self._network(frames.shape[1]).predict_on_batch(frames)

    def describe(self) -> dict[str, Any]:
        """Which model, of what."""
        return {
            "kind": self.kind,
            "package": musicnn.WHEEL,
            "model": "MTT_musicnn",
            "layer": "penultimate",
            "clip_num_samples": self.clip_num_samples,
            "sample_rate_hz": self.sample_rate_hz,
        }

    def _network(self, num_frames: int) -> keras.Model:
        # Not before features are asked for: those that are cached need no weights.
        if self._built is None:
            named = os.environ.get("MUSICNN_WHEEL")
            weights = musicnn.read_weights(Path(named) if named else musicnn.fetch_wheel(_FOLDER))
            tagger = musicnn.build_tagger(weights, num_frames)
            self._built = keras.Model(tagger.inputs, tagger.layers[-1].input)
        return self._built
