"""Features of the windows of a split: their sources, their cache, and their labels."""

import dataclasses
import functools
import hashlib
import importlib
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import tensorflow as tf

from clmr_tf.audio.decoding import load_audio
from clmr_tf.data.corpus import Corpus
from clmr_tf.data.crops import window_starts
from clmr_tf.data.index import Item
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.export.model_folder import weights_hash
from clmr_tf.files import read_arrays, replaced_file
from clmr_tf.inference.encoder import Encoder

MEL_WINDOW_SAMPLES, MEL_HOP_SAMPLES, MEL_NUM_BANDS, MEL_LOWEST_HZ = 2048, 1024, 96, 30.0
_MEL_FLOOR = 1e-6


class FeatureSource(Protocol):
    """Computes features of windows of audio.

    Attributes:
        kind: Its name in results.
        clip_num_samples: Length of a window.
        sample_rate_hz: Sample rate of the windows.
        needs_standardising: Whether its features are standardised even if the protocol does not ask for it.
    """

    kind: str
    clip_num_samples: int
    sample_rate_hz: int
    needs_standardising: bool

    @property
    def identity(self) -> str:
        """SHA-256 of everything that determines its features; names its folder in the cache. May be an attribute."""

    def features_of(self, clips: np.ndarray) -> np.ndarray:
        """float32 [n, clip_num_samples] -> float32 [n, dimensions]."""

    def describe(self) -> dict[str, Any]:
        """Metadata for results, as JSON data."""


class EncoderFeatures:
    """Embeddings of an encoder, trained (kind "model") or randomly initialised ("untrained")."""

    needs_standardising = False

    def __init__(self, encoder: Encoder, kind: str, metadata: dict[str, Any]) -> None:
        self.kind, self._encoder, self._metadata = kind, encoder, metadata
        self.clip_num_samples, self.sample_rate_hz = encoder.clip_num_samples, encoder.sample_rate_hz

    @functools.cached_property
    def identity(self) -> str:
        """SHA-256 of the weights; the features of an encoder in training are not cached and never need it."""
        return weights_hash(self._encoder.model)

    def features_of(self, clips: np.ndarray) -> np.ndarray:
        """float32 [n, clip_num_samples] -> float32 [n, 512]."""
        return self._encoder.encode_clips(clips)

    def describe(self) -> dict[str, Any]:
        """Kind, hash of the weights, and the metadata it was given."""
        return {"kind": self.kind, "model_hash": self.identity, **self._metadata}


class MelFeatures:
    """Mean and standard deviation over time of a log-mel spectrogram: a baseline that a useful encoder beats.

    Power spectra of 2,048 samples (Hann) every 1,024, without padding, in 96 triangular bands of equal width on the HTK
    mel scale from 30 Hz to the Nyquist frequency, as ln(power + 1e-6). The mean and the standard deviation of each band
    over the frames of the window make 192 features.
    """

    kind = "mel"
    # The logarithms are around -10; with the protocols' small learning rates, the bias would not reach that in time.
    needs_standardising = True

    def __init__(self, clip_num_samples: int, sample_rate_hz: int) -> None:
        self.clip_num_samples, self.sample_rate_hz = clip_num_samples, sample_rate_hz
        self.identity = hashlib.sha256(repr(sorted(self.describe().items())).encode()).hexdigest()

    def features_of(self, clips: np.ndarray) -> np.ndarray:
        """float32 [n, clip_num_samples] -> float32 [n, 192], means before standard deviations."""
        return _mel_statistics(tf.constant(clips, tf.float32), self._bands).numpy()

    @functools.cached_property
    def _bands(self) -> tf.Tensor:
        num_bins, nyquist_hz = MEL_WINDOW_SAMPLES // 2 + 1, self.sample_rate_hz / 2
        return tf.signal.linear_to_mel_weight_matrix(
            MEL_NUM_BANDS, num_bins, self.sample_rate_hz, MEL_LOWEST_HZ, nyquist_hz
        )

    def describe(self) -> dict[str, Any]:
        """The parameters of the spectrogram."""
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
    """No features: a baseline that predicts the frequencies of the tags among the training examples."""

    kind = "majority"
    needs_standardising = False
    identity = hashlib.sha256(b"no features").hexdigest()

    def __init__(self, clip_num_samples: int, sample_rate_hz: int) -> None:
        self.clip_num_samples, self.sample_rate_hz = clip_num_samples, sample_rate_hz

    def features_of(self, clips: np.ndarray) -> np.ndarray:
        """float32 [n, clip_num_samples] -> float32 [n, 0]."""
        return np.zeros((len(clips), 0), np.float32)

    def describe(self) -> dict[str, Any]:
        """The kind; there is nothing else to describe."""
        return {"kind": self.kind}


def import_source(name: str, clip_num_samples: int, sample_rate_hz: int) -> FeatureSource:
    """Imports a user-defined feature source.

    Args:
        name: MODULE:CLASS; the class is called with the other two arguments.
        clip_num_samples: Length of a window.
        sample_rate_hz: Sample rate of the windows.

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
        for attribute in (*FeatureSource.__annotations__, "identity", "features_of", "describe")
        if not hasattr(source, attribute)
    ]
    if missing:
        raise UsageError(
            f"--features {name} has no {', '.join(missing)}; see FeatureSource in clmr_tf/probe/features.py."
        )
    return source


@tf.function(reduce_retracing=True, autograph=False)
def _mel_statistics(clips: tf.Tensor, bands: tf.Tensor) -> tf.Tensor:
    power = tf.abs(tf.signal.stft(clips, MEL_WINDOW_SAMPLES, MEL_HOP_SAMPLES)) ** 2
    levels = tf.math.log(power @ bands + _MEL_FLOOR)
    return tf.concat([tf.reduce_mean(levels, axis=1), tf.math.reduce_std(levels, axis=1)], axis=1)


# Increase this when the layout of the files or the way in which windows are cut changes.
_FORMAT_VERSION = 2
_CLIPS_PER_CALL = 32
_LOG = logging.getLogger(__name__)

OnProgress = Callable[[str, int, int], None]
"""Called with what is being computed, the amount done and the total."""


@dataclasses.dataclass(frozen=True)
class LabeledFeatures:
    """Features of the clips of one split, with the labels of the clips.

    Attributes:
        vectors: float32 [rows, dimensions]. A row is a window of a clip, or the mean of its windows.
        clip_of_row: Clip that each row belongs to, int64 [rows], ascending.
        labels: Multi-hot tags of the clips, float32 [clips, tags].
        num_samples: Length of each clip, int64 [clips].
    """

    vectors: np.ndarray
    clip_of_row: np.ndarray
    labels: np.ndarray
    num_samples: np.ndarray

    @property
    def row_labels(self) -> np.ndarray:
        """Multi-hot tags of the rows, float32 [rows, tags]."""
        return self.labels[self.clip_of_row]

    def select(self, rows: np.ndarray) -> "LabeledFeatures":
        """Keeps some rows, by a mask or indices; the clips stay."""
        return dataclasses.replace(self, vectors=self.vectors[rows], clip_of_row=self.clip_of_row[rows])

    def mean_by_clip(self, values: np.ndarray) -> np.ndarray:
        """Means over the rows of each clip, each of which needs one: [rows, ...] -> float64 [clips, ...]."""
        first = np.searchsorted(self.clip_of_row, np.arange(len(self.labels)))
        # Relative to the first row of each clip: the mean of equal rows is exactly that row, so that clips with equal
        # scores stay tied however many rows they have.
        differences = values.astype(np.float64) - values[first][self.clip_of_row]
        counts = np.bincount(self.clip_of_row)[:, None]
        return values[first] + np.add.reduceat(differences, first, axis=0) / counts

    def means(self) -> "LabeledFeatures":
        """One row per clip, the mean of its rows."""
        vectors = self.mean_by_clip(self.vectors).astype(np.float32)
        return dataclasses.replace(self, vectors=vectors, clip_of_row=np.arange(len(self.labels)))


def read_features(
    source: FeatureSource,
    corpus: Corpus,
    split: str,
    windows: Literal["all", "crop"] = "all",
    *,
    seed: int = 0,
    cache: Path | None = None,
    fingerprint: str = "",
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> LabeledFeatures:
    """Computes the features of a split, or reads them from the cache.

    Args:
        source: Computes them.
        corpus: The corpus, with the labels of the task.
        split: Must not be empty.
        windows: "all" takes consecutive whole windows from the start of each clip; "crop" takes one random window of
            each clip, whose offset is a function of seed and clip.
        seed: Seed of the crops.
        cache: Folder of computed features; None for no cache.
        fingerprint: Required with a cache: the fingerprint of the corpus without the task, since features do not depend
            on labels.
        on_clip: Called after each clip with the number of clips done and the total.

    Raises:
        ClmrError: If a clip is shorter than a window.
        UnreadableAudioError: If a file of a "direct" corpus cannot be decoded.
    """
    rows = corpus.rows_of(split)
    items = corpus.items_at(rows)
    compute = functools.partial(_compute, source, corpus, windows=windows, seed=seed)
    if cache is None:
        arrays = compute(items, on_clip=on_clip)
    else:
        key = {
            "format_version": _FORMAT_VERSION,
            "source": source.identity,
            "corpus": fingerprint,
            "windows": windows if windows == "all" else f"{windows} of seed {seed}",
        }
        names = [_digest(f"{item.id}\n{item.digest}".encode())[:16] for item in items]
        path = cache / source.identity[:16] / f"{split}-{windows}-{_digest(json.dumps([key, names]).encode())[:16]}.npz"
        arrays = _cached(
            path, key, names, lambda missing, done: compute(corpus.items_at(rows[missing]), on_clip=done), on_clip
        )
    num_windows = np.bincount(arrays["item"], minlength=len(items))
    too_short = np.flatnonzero(num_windows == 0)
    if len(too_short):
        raise ClmrError(
            f"{len(too_short)} clips are shorter than one window, such as {items[too_short[0]].source}; prepare the "
            "corpus again, which leaves them out."
        )
    return LabeledFeatures(arrays["vectors"], arrays["item"], corpus.multi_hot(rows), arrays["num_samples"])


def _cached(
    path: Path,
    key: dict[str, object],
    names: Sequence[str],
    compute: Callable[[Sequence[int], Callable[[int, int], None]], dict[str, np.ndarray]],
    on_clip: Callable[[int, int], None],
) -> dict[str, np.ndarray]:
    """The features of a file of the cache, which is written if it does not exist or is damaged.

    Clips that another file of the same folder has are not computed again, since tasks of a corpus differ in their
    splits.

    Args:
        path: The file.
        key: Everything that the features depend on besides the clips.
        names: What identifies the clips.
        compute: Computes the clips in some rows of `names`; its second argument is as `on_clip`.
        on_clip: Called with the number of clips done and the total.
    """
    if path.is_file() and (found := _read(path, key)) is not None and list(found["names"]) == list(names):
        return found
    parts: dict[str, tuple[np.ndarray, int]] = {}
    for other in sorted(path.parent.glob("*.npz")):
        if other != path and (found := _read(other, key)) is not None:
            ends = np.cumsum(np.bincount(found["item"], minlength=len(found["names"])))[:-1]
            vectors = np.split(found["vectors"], ends)
            parts |= zip(found["names"].tolist(), zip(vectors, found["num_samples"], strict=True), strict=True)
    missing = [row for row, name in enumerate(names) if name not in parts]
    if missing:
        num_known = len(names) - len(missing)
        computed = compute(missing, lambda done, _: on_clip(num_known + done, len(names)))
        ends = np.cumsum(np.bincount(computed["item"], minlength=len(missing)))[:-1]
        vectors = np.split(computed["vectors"], ends)
        parts |= zip([names[row] for row in missing], zip(vectors, computed["num_samples"], strict=True), strict=True)
    vectors = [parts[name][0] for name in names]
    arrays = {
        # Without clips that are too short, whose empty parts need not have the right width.
        "vectors": np.concatenate([rows for rows in vectors if len(rows)] or vectors[:1]),
        "item": np.repeat(np.arange(len(names)), [len(rows) for rows in vectors]),
        "num_samples": np.array([parts[name][1] for name in names], np.int64),
        "names": np.array(names, np.str_),
    }
    _write(path, arrays, key)
    return arrays


def _compute(
    source: FeatureSource,
    corpus: Corpus,
    items: Sequence[Item],
    *,
    windows: Literal["all", "crop"],
    seed: int,
    on_clip: Callable[[int, int], None],
) -> dict[str, np.ndarray]:
    num_samples = np.zeros(len(items), np.int64)
    clip_of_row: list[int] = []

    def cut() -> Iterator[np.ndarray]:
        for row, item in enumerate(items):
            samples = read_recording(corpus, item)
            num_samples[row] = len(samples)
            starts = window_starts(len(samples), source.clip_num_samples)
            if windows == "crop" and len(starts):
                starts = [crop_offset(item.id, len(samples) - source.clip_num_samples + 1, seed)]
            for start in starts:
                clip_of_row.append(row)
                yield samples[start : start + source.clip_num_samples]
            on_clip(row + 1, len(items))

    # A batch has windows from several clips, since a batch of one window takes as long as one of several.
    every = cut()
    vectors = []
    while batch := list(itertools.islice(every, _CLIPS_PER_CALL)):
        vectors.append(source.features_of(np.stack(batch)))
    return {
        "vectors": np.concatenate(vectors) if vectors else np.zeros((0, 0), np.float32),
        "item": np.array(clip_of_row, np.int64),
        "num_samples": num_samples,
    }


def read_recording(corpus: Corpus, item: Item) -> np.ndarray:
    """The samples of an item of any corpus, float32 in [-1, 1]; UnreadableAudioError if a file cannot be decoded."""
    if corpus.manifest.storage == "direct":
        return load_audio(Path(item.file), corpus.manifest.sample_rate_hz)
    return corpus.read_samples(item)


def crop_offset(item_id: str, num_offsets: int, seed: int) -> int:
    """Offset of an item's random crop, uniform in [0, num_offsets) and independent of the other items."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{item_id}".encode()).digest()[:8], "big") % num_offsets


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _content_digest(arrays: dict[str, np.ndarray]) -> str:
    return _digest(*(part for array in arrays.values() for part in (repr(array.shape).encode(), array.tobytes())))


def _read(path: Path, key: dict[str, object]) -> dict[str, np.ndarray] | None:
    try:
        arrays = read_arrays(path, "vectors", "item", "num_samples", "names", "metadata")
        metadata = json.loads(str(arrays.pop("metadata")))
        if metadata["key"] != key:
            return None
        if metadata["sha256"] != _content_digest(arrays):
            raise ValueError("its checksum is wrong")
    except (ValueError, KeyError, TypeError) as error:
        _LOG.warning("The cached features %s are damaged (%s); they are computed again.", path, error)
        return None
    return arrays


def _write(path: Path, arrays: dict[str, np.ndarray], key: dict[str, object]) -> None:
    metadata = json.dumps({"key": key, "sha256": _content_digest(arrays)})
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written directly to the file instead of through a buffer: these are the largest arrays of an evaluation.
    with replaced_file(path) as file:
        np.savez(file, metadata=np.array(metadata), **arrays)


def chunks_of(features: LabeledFeatures, clip_num_samples: int, drops_last: bool) -> tuple[LabeledFeatures, int]:
    """Selects the windows that the original code scores.

    Args:
        features: Features of "all" windows, which do not include partial ones.
        clip_num_samples: Length of a window.
        drops_last: Drop the last window of clips whose length is an exact multiple of a window's, as the original
            does, except where it is the only one.

    Returns:
        The selected windows, and the number of clips that kept their only window.
    """
    if not drops_last:
        return features, 0
    clip = features.clip_of_row
    is_exact = features.num_samples % clip_num_samples == 0
    is_rescued = is_exact & (np.bincount(clip, minlength=len(is_exact)) == 1)
    is_last = np.append(clip[1:] != clip[:-1], True)
    return features.select(~(is_last & (is_exact & ~is_rescued)[clip])), int(is_rescued.sum())
