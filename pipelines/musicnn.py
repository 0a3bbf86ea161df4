"""The musicnn baseline: a published tagger, as features and as a source of pseudo-tags."""

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import soxr
import tensorflow as tf

from clmr_tf.errors import UsageError
from pipelines.preparation import wheels

SAMPLE_RATE_HZ = 16_000
NUM_TAGS = 50
WINDOW_NUM_FRAMES = 187
HOP_SAMPLES = 256
# One window: its first frame is centred on its sample 256, its last one ends with it.
WINDOW_NUM_SAMPLES = (WINDOW_NUM_FRAMES + 1) * HOP_SAMPLES
WHEEL = "musicnn-0.1.0-py3-none-any.whl"
_WHEEL_SHA256 = "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"
_CHECKPOINT = "musicnn/MTT_musicnn/"
_NUM_MELS = 96
_FRAME_SAMPLES = 512


def fetch_wheel(folder: Path) -> Path:
    """Gets the package's file with pip unless it is in the folder, without what it depends on and without installing.

    Raises:
        ClmrError: If pip cannot get it.
    """
    path = folder / WHEEL
    if path.is_file():
        return path
    return wheels.fetch_wheel("musicnn", "0.1.0", "29 MB", folder, "give its wheel with --musicnn FILE")


def read_weights(wheel: Path) -> dict[str, np.ndarray]:
    """The variables of MTT_musicnn by their names in its graph, out of the package's file.

    Raises:
        UsageError: If it is another file.
    """
    if not wheel.is_file() or hashlib.sha256(wheel.read_bytes()).hexdigest() != _WHEEL_SHA256:
        raise UsageError(f"{wheel} is not the file {WHEEL} of musicnn 0.1.0; have it fetched, or give the right one.")
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as package:
        for name in (".index", ".data-00000-of-00001"):
            package.extract(_CHECKPOINT + name, folder)
        # Its files have no name before the dot, which tf.train.load_checkpoint does not find.
        reader = tf.compat.v1.train.NewCheckpointReader(f"{folder}/{_CHECKPOINT}")
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def build_tagger(weights: dict[str, np.ndarray], num_frames: int = WINDOW_NUM_FRAMES) -> keras.Model:
    """The network: float32 [batch, num_frames, 96] of `log_mel` to [batch, 50] probabilities, in the order of the tags.

    What is before its last layer is [batch, 200], which the package calls "penultimate".

    Args:
        weights: What `read_weights` gives.
        num_frames: Length of its windows. It was trained with 187; its maxima and means over time take any.
    """
    numbers = {"conv2d": 0, "batch_normalization": 0, "dense": 0}

    def named(kind: str) -> Callable[[str], np.ndarray]:
        # Variables are numbered in the order in which the original graph makes them.
        suffix = f"_{numbers[kind]}" if numbers[kind] else ""
        numbers[kind] += 1
        return lambda variable: weights[f"{kind}{suffix}/{variable}"]

    def normalised(x: tf.Tensor) -> tf.Tensor:
        of = named("batch_normalization")
        layer = keras.layers.BatchNormalization(epsilon=1e-3)
        y = layer(x)
        layer.set_weights([of(name) for name in ("gamma", "beta", "moving_mean", "moving_variance")])
        return y

    def with_weights(layer: keras.Layer, x: tf.Tensor, kind: str) -> tf.Tensor:
        of = named(kind)
        y = layer(x)
        layer.set_weights([of("kernel"), of("bias")])
        return y

    def convolved(x: tf.Tensor, filters: int, kernel: tuple[int, int], padding: str) -> tf.Tensor:
        layer = keras.layers.Conv2D(filters, kernel, padding=padding, activation="relu")
        return normalised(with_weights(layer, x, "conv2d"))

    def padded_in_time(x: tf.Tensor) -> tf.Tensor:
        return keras.layers.ZeroPadding2D(((3, 3), (0, 0)))(x)

    def highest(x: tf.Tensor) -> tf.Tensor:
        return keras.ops.max(x, axis=2)

    def across_channels(x: tf.Tensor, filters: int) -> tf.Tensor:
        # [batch, time, 1, filters] back to [batch, time, filters, 1].
        y = convolved(padded_in_time(x), filters, (7, x.shape[2]), "valid")
        return keras.ops.transpose(y, (0, 1, 3, 2))

    inputs = keras.Input((num_frames, _NUM_MELS))
    x = normalised(inputs[..., None])
    timbral = [highest(convolved(padded_in_time(x), 204, (7, bands), "valid")) for bands in (38, 67)]
    temporal = [highest(convolved(x, 51, (frames, 1), "same")) for frames in (128, 64, 32)]
    front = keras.ops.concatenate([*timbral, *temporal], axis=2)[..., None]
    first = across_channels(front, 64)
    second = across_channels(first, 64) + first
    third = across_channels(second, 64) + second
    features = keras.ops.concatenate([front, first, second, third], axis=2)
    pooled = keras.ops.concatenate([keras.ops.max(features, axis=1), keras.ops.mean(features, axis=1)], axis=2)
    x = normalised(keras.layers.Flatten()(pooled))
    x = normalised(with_weights(keras.layers.Dense(200, activation="relu"), x, "dense"))
    return keras.Model(inputs, with_weights(keras.layers.Dense(NUM_TAGS, activation="sigmoid"), x, "dense"))


def log_mel(windows: np.ndarray) -> np.ndarray:
    """What the network sees: float32 [num_windows, samples] at 16 kHz to float32 [num_windows, frames, 96].

    A window of 48,128 samples has 187 frames of 512 samples, one every 256.

    log10(1 + 10000 x) of mel bands x, as librosa makes them by default (Slaney's bands and their norm, Hann window).
    The package does this in 16 bits, which overflow where music is loud; here it is done in 32.
    """
    if windows.ndim != 2 or windows.shape[1] < _FRAME_SAMPLES:
        raise ValueError(f"windows must be [n, {_FRAME_SAMPLES} or more], received {list(windows.shape)}")
    frames = np.lib.stride_tricks.sliding_window_view(windows, _FRAME_SAMPLES, axis=1)[:, ::HOP_SAMPLES]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FRAME_SAMPLES) / _FRAME_SAMPLES)
    power = np.abs(np.fft.rfft(frames * hann.astype(np.float32))) ** 2
    return np.log10(1 + 10_000 * (power @ _mel_bands())).astype(np.float32)


def _mel_bands() -> np.ndarray:
    """Triangles of equal area [257, 96], their corners equally far apart in mel from 0 to 8,000 Hz (Slaney 1998)."""
    # Linear to 1000 Hz, 200/3 Hz a mel; then 27 mel to every factor of 6.4.
    top_mel = 15 + 27 * np.log(SAMPLE_RATE_HZ / 2 / 1000) / np.log(6.4)
    mels = np.linspace(0, top_mel, _NUM_MELS + 2)
    corners_hz = np.where(mels < 15, 200 / 3 * mels, 1000 * 6.4 ** ((mels - 15) / 27))
    bins_hz = np.arange(_FRAME_SAMPLES // 2 + 1)[:, None] * SAMPLE_RATE_HZ / _FRAME_SAMPLES
    low, centre, high = corners_hz[:-2], corners_hz[1:-1], corners_hz[2:]
    rising, falling = (bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)


_FOLDER = Path("corpora") / "downloads" / "musicnn"


class MusicnnFeatures:
    """What is before the last layer of MTT_musicnn, 200 numbers of a clip; see `clmr_tf.probe.features`.

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
        windows = soxr.resample(clips.T, self.sample_rate_hz, SAMPLE_RATE_HZ).T
        frames = log_mel(windows)
        return self._network(frames.shape[1]).predict_on_batch(frames)

    def describe(self) -> dict[str, Any]:
        """Which model, of what."""
        return {
            "kind": self.kind,
            "package": WHEEL,
            "model": "MTT_musicnn",
            "layer": "penultimate",
            "clip_num_samples": self.clip_num_samples,
            "sample_rate_hz": self.sample_rate_hz,
        }

    def _network(self, num_frames: int) -> keras.Model:
        # Not before features are asked for: those that are cached need no weights.
        if self._built is None:
            named = os.environ.get("MUSICNN_WHEEL")
            weights = read_weights(Path(named) if named else fetch_wheel(_FOLDER))
            tagger = build_tagger(weights, num_frames)
            self._built = keras.Model(tagger.inputs, tagger.layers[-1].input)
        return self._built
