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
# The first frame begins with the window, the last one ends with it.
WINDOW_NUM_SAMPLES = (WINDOW_NUM_FRAMES + 1) * HOP_SAMPLES
WHEEL = "musicnn-0.1.0-py3-none-any.whl"
_WHEEL_SHA256 = "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"
_CHECKPOINT = "musicnn/MTT_musicnn/"
_NUM_MELS = 96
_FRAME_SAMPLES = 512


def fetch_wheel(folder: Path) -> Path:
    """Downloads the wheel with pip unless the folder has it; nothing is installed. Returns its path.

    Raises:
        ClmrError: If pip cannot download it.
    """
    path = folder / WHEEL
    if path.is_file():
        return path
    return wheels.fetch_wheel("musicnn", "0.1.0", "29 MB", folder, "give its wheel with --musicnn FILE")


def read_weights(wheel: Path) -> dict[str, np.ndarray]:
    """Reads the variables of MTT_musicnn from the wheel, by their names in its graph.

    Raises:
        UsageError: If the file is missing or is not that wheel.
    """
    if not wheel.is_file() or hashlib.sha256(wheel.read_bytes()).hexdigest() != _WHEEL_SHA256:
        raise UsageError(f"{wheel} is not the file {WHEEL} of musicnn 0.1.0; give that file, or none to download it.")
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as package:
        for name in (".index", ".data-00000-of-00001"):
            package.extract(_CHECKPOINT + name, folder)
        # The file names begin with a dot, so tf.train.load_checkpoint does not find them.
        reader = tf.compat.v1.train.NewCheckpointReader(f"{folder}/{_CHECKPOINT}")
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def build_tagger(weights: dict[str, np.ndarray], num_frames: int = WINDOW_NUM_FRAMES) -> keras.Model:
    """Builds the network: float32 [batch, num_frames, 96] of `log_mel` to [batch, 50] probabilities in tag order.

    The input of its last layer, [batch, 200], is what the package calls "penultimate".

    Args:
        weights: From `read_weights`.
        num_frames: Length of a window. The model was trained with 187; since it pools over time, any length works.
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

    def max_over_bands(x: tf.Tensor) -> tf.Tensor:
        return keras.ops.max(x, axis=2)

    def across_channels(x: tf.Tensor, filters: int) -> tf.Tensor:
        # [batch, time, 1, filters] back to [batch, time, filters, 1].
        y = convolved(padded_in_time(x), filters, (7, x.shape[2]), "valid")
        return keras.ops.transpose(y, (0, 1, 3, 2))

    inputs = keras.Input((num_frames, _NUM_MELS))
    x = normalised(inputs[..., None])
    timbral = [max_over_bands(convolved(padded_in_time(x), 204, (7, bands), "valid")) for bands in (38, 67)]
    temporal = [max_over_bands(convolved(x, 51, (frames, 1), "same")) for frames in (128, 64, 32)]
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
    """The input of the network: float32 [num_windows, samples] at 16 kHz to float32 [num_windows, frames, 96].

    A window of 48,128 samples has 187 frames of 512 samples, one every 256.

    It is log10(1 + 10000 x) of the mel bands x with librosa's defaults (Slaney's bands and normalisation, Hann window).
    The package computes it in 16 bits, which overflow in loud music; here it is computed in 32.
    """
    if windows.ndim != 2 or windows.shape[1] < _FRAME_SAMPLES:
        raise ValueError(f"windows must be [n, {_FRAME_SAMPLES} or more], received {list(windows.shape)}")
    frames = np.lib.stride_tricks.sliding_window_view(windows, _FRAME_SAMPLES, axis=1)[:, ::HOP_SAMPLES]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FRAME_SAMPLES) / _FRAME_SAMPLES)
    power = np.abs(np.fft.rfft(frames * hann.astype(np.float32))) ** 2
    return np.log10(1 + 10_000 * (power @ _mel_bands())).astype(np.float32)


def _mel_bands() -> np.ndarray:
    """Triangular filters of equal area [257, 96], equally spaced in mel from 0 to 8,000 Hz (Slaney 1998)."""
    # Linear to 1000 Hz with 200/3 Hz per mel, then logarithmic with 27 mel for every factor of 6.4.
    top_mel = 15 + 27 * np.log(SAMPLE_RATE_HZ / 2 / 1000) / np.log(6.4)
    mels = np.linspace(0, top_mel, _NUM_MELS + 2)
    corners_hz = np.where(mels < 15, 200 / 3 * mels, 1000 * 6.4 ** ((mels - 15) / 27))
    bins_hz = np.arange(_FRAME_SAMPLES // 2 + 1)[:, None] * SAMPLE_RATE_HZ / _FRAME_SAMPLES
    low, centre, high = corners_hz[:-2], corners_hz[1:-1], corners_hz[2:]
    rising, falling = (bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)


_FOLDER = Path("corpora") / "downloads" / "musicnn"


class MusicnnFeatures:
    """The penultimate layer of MTT_musicnn, 200 numbers for each clip; see `clmr_tf.probe.features`.

    The clip is resampled to 16 kHz. A clip of 2.68 seconds has 166 frames, and the model was trained with 187; since it
    pools over time, both work.

    Args:
        clip_num_samples: Length of a clip.
        sample_rate_hz: Its rate.

    Raises:
        ClmrError: If the model cannot be fetched.
        UsageError: If the environment variable MUSICNN_WHEEL names a file that is not the wheel.
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
        """The model, its layer and its input, as JSON data."""
        return {
            "kind": self.kind,
            "package": WHEEL,
            "model": "MTT_musicnn",
            "layer": "penultimate",
            "clip_num_samples": self.clip_num_samples,
            "sample_rate_hz": self.sample_rate_hz,
        }

    def _network(self, num_frames: int) -> keras.Model:
        # Built on first use, since cached features need no weights.
        if self._built is None:
            named = os.environ.get("MUSICNN_WHEEL")
            weights = read_weights(Path(named) if named else fetch_wheel(_FOLDER))
            tagger = build_tagger(weights, num_frames)
            self._built = keras.Model(tagger.inputs, tagger.layers[-1].input)
        return self._built
