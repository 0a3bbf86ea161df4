"""What a head may learn from: a trained encoder and the baselines that go through the same protocol."""

import functools
import hashlib
import importlib
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from clmr_tf.encoder import Encoder, weights_hash
from clmr_tf.errors import UsageError

MEL_WINDOW_SAMPLES, MEL_HOP_SAMPLES, MEL_NUM_BANDS, MEL_LOWEST_HZ = 2048, 1024, 96, 30.0
_MEL_FLOOR = 1e-6


class FeatureSource(Protocol):
    """Turns clips into features.

    Attributes:
        kind: What it is called in results.
        identity: SHA-256 of everything that decides its features; the name of its cache.
        clip_num_samples: Length of the clips.
        sample_rate_hz: Their rate.
        needs_standardising: Whether a head must get its features standardised whatever the protocol says.
    """

    kind: str
    identity: str
    clip_num_samples: int
    sample_rate_hz: int
    needs_standardising: bool

    def features_of(self, clips: np.ndarray) -> np.ndarray:
        """float32 [n, clip_num_samples] -> float32 [n, dimensions]."""

    def describe(self) -> dict[str, Any]:
        """What it was, as JSON data."""


class EncoderFeatures:
    """The embeddings of an encoder, trained ("model") or as it was initialised ("untrained")."""

    needs_standardising = False

    def __init__(self, encoder: Encoder, kind: str, facts: dict[str, Any]) -> None:
        self.kind, self._encoder, self._facts = kind, encoder, facts
        self.clip_num_samples, self.sample_rate_hz = encoder.clip_num_samples, encoder.sample_rate_hz
        self.identity = weights_hash(encoder)

    def features_of(self, clips: np.ndarray) -> np.ndarray:
        """float32 [n, clip_num_samples] -> float32 [n, 512]."""
        return self._encoder.encode_clips(clips)

    def describe(self) -> dict[str, Any]:
        """The facts of its making and the hash of its weights."""
        return {"kind": self.kind, "model_hash": self.identity, **self._facts}


class MelFeatures:
    """Mean and deviation over time of a log-mel spectrogram: what an encoder has to beat to be of use.

    Power spectra of 2,048 samples (Hann) every 1,024, without padding, in 96 triangular bands that are equally
    wide on the HTK mel scale from 30 Hz to the Nyquist frequency, ln(power + 1e-6), and of each band the mean and
    the standard deviation over the frames of the clip: 192 features.
    """

    kind = "mel"
    # The logarithms lie around -10, where the small learning rates of the protocols would not get a bias in time.
    needs_standardising = True

    def __init__(self, clip_num_samples: int, sample_rate_hz: int) -> None:
        self.clip_num_samples, self.sample_rate_hz = clip_num_samples, sample_rate_hz
        self.identity = hashlib.sha256(repr(sorted(self.describe().items())).encode()).hexdigest()

    def features_of(self, clips: np.ndarray) -> np.ndarray:
        """float32 [n, clip_num_samples] -> float32 [n, 192], the means before the deviations."""
        return _mel_statistics(tf.constant(clips, tf.float32), self._bands).numpy()

    @functools.cached_property
    def _bands(self) -> tf.Tensor:
        num_bins, nyquist_hz = MEL_WINDOW_SAMPLES // 2 + 1, self.sample_rate_hz / 2
        return tf.signal.linear_to_mel_weight_matrix(
            MEL_NUM_BANDS, num_bins, self.sample_rate_hz, MEL_LOWEST_HZ, nyquist_hz
        )

    def describe(self) -> dict[str, Any]:
        """All numbers of the spectrogram."""
        return {
            "kind": self.kind,
            "clip_num_samples": self.clip_num_samples,
            "sample_rate_hz": self.sample_rate_hz,
            "window_samples": MEL_WINDOW_SAMPLES,
            "hop_samples": MEL_HOP_SAMPLES,
            "num_bands": MEL_NUM_BANDS,
            "lowest_hz": MEL_LOWEST_HZ,
            "power_floor": _MEL_FLOOR,
            "statistics": "mean and standard deviation over time of the natural logarithm",
        }


class MajorityFeatures:
    """No features: what is left is to guess by how often each tag occurs among the training examples."""

    kind = "majority"
    needs_standardising = False
    identity = hashlib.sha256(b"no features").hexdigest()

    def __init__(self, clip_num_samples: int, sample_rate_hz: int) -> None:
        self.clip_num_samples, self.sample_rate_hz = clip_num_samples, sample_rate_hz

    def features_of(self, clips: np.ndarray) -> np.ndarray:
        """float32 [n, clip_num_samples] -> float32 [n, 0]."""
        return np.zeros((len(clips), 0), np.float32)

    def describe(self) -> dict[str, Any]:
        """That it is none."""
        return {"kind": self.kind}


def import_source(name: str, clip_num_samples: int, sample_rate_hz: int) -> FeatureSource:
    """Features of other programs, from a class that anyone may write: MODULE:CLASS, called with the two lengths.

    Raises:
        UsageError: If there is no such module or class, or it is not a `FeatureSource`.
    """
    module_name, _, class_name = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except ImportError as error:
        raise UsageError(f"--features {name} cannot be imported ({error}); give MODULE:CLASS.") from error
    if not callable(found):
        raise UsageError(f"--features {name}: {module_name} has no class {class_name}; give MODULE:CLASS.")
    source = found(clip_num_samples, sample_rate_hz)
    missing = [
        attribute
        for attribute in (*FeatureSource.__annotations__, "features_of", "describe")
        if not hasattr(source, attribute)
    ]
    if missing:
        raise UsageError(
            f"--features {name} lacks {', '.join(missing)}; see FeatureSource in clmr_tf/evaluation/sources.py."
        )
    return source


@tf.function(reduce_retracing=True, autograph=False)
def _mel_statistics(clips: tf.Tensor, bands: tf.Tensor) -> tf.Tensor:
    power = tf.abs(tf.signal.stft(clips, MEL_WINDOW_SAMPLES, MEL_HOP_SAMPLES)) ** 2
    levels = tf.math.log(power @ bands + _MEL_FLOOR)
    return tf.concat([tf.reduce_mean(levels, axis=1), tf.math.reduce_std(levels, axis=1)], axis=1)
