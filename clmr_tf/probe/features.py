"""Features of the windows of a split, and the labels that go with them."""

import dataclasses
import functools
import hashlib
import importlib
import json
import logging
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import tensorflow as tf

from clmr_tf.audio.decoding import load_audio
from clmr_tf.data.corpus import Corpus, Item
from clmr_tf.data.crops import window_starts
from clmr_tf.data.labels import Examples, Split
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.export.model_folder import weights_hash
from clmr_tf.files import replaced_file
from clmr_tf.inference.encoder import Encoder
from clmr_tf.models.heads import Head, probabilities
from clmr_tf.probe.protocols import ProbeProtocol, TrainWindows

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
        self.identity = weights_hash(encoder.model)

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
            f"--features {name} lacks {', '.join(missing)}; see FeatureSource in clmr_tf/probe/features.py."
        )
    return source


@tf.function(reduce_retracing=True, autograph=False)
def _mel_statistics(clips: tf.Tensor, bands: tf.Tensor) -> tf.Tensor:
    power = tf.abs(tf.signal.stft(clips, MEL_WINDOW_SAMPLES, MEL_HOP_SAMPLES)) ** 2
    levels = tf.math.log(power @ bands + _MEL_FLOOR)
    return tf.concat([tf.reduce_mean(levels, axis=1), tf.math.reduce_std(levels, axis=1)], axis=1)


# Features of another layout, or cut from the audio otherwise, are computed again.
_FORMAT_VERSION = 1
_CLIPS_PER_CALL = 32
_LOG = logging.getLogger(__name__)

OnItem = Callable[[int, int], None]
"""Is told how many items are done, and of how many."""


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of some items of a corpus.

    Attributes:
        vectors: float32 [windows, dimensions], the windows of an item in order.
        item: Row of the item that a window belongs to, int64 [windows], ascending.
        num_samples: Length of each item, int64 [items].
    """

    vectors: np.ndarray
    item: np.ndarray
    num_samples: np.ndarray


def cached_features(
    folder: Path,
    source: FeatureSource,
    corpus: Corpus,
    items: Sequence[Item],
    windows: Literal["all", "crop"],
    *,
    seed: int,
    on_item: OnItem = lambda done, of: None,
) -> Features:
    """The features of `items`, read from `folder` if they were computed before.

    Args:
        folder: The cache of all sources and corpora.
        source: What computes them.
        corpus: The corpus that the items are of; labels do not matter.
        items: Of one split, not empty.
        windows: "all" whole windows that follow each other from the start of an item, or one random "crop" of each
            item, whose place is a function of seed and item.
        seed: Of the crops.
        on_item: Called while they are computed.

    Raises:
        UnreadableAudioError: If a file of a "direct" corpus cannot be decoded.
    """
    key = {
        "format_version": _FORMAT_VERSION,
        "source": source.identity,
        "corpus": corpus.manifest.fingerprint,
        "windows": windows if windows == "all" else f"{windows} of seed {seed}",
        "items": _digest(*("\n".join([item.id, item.digest]).encode() for item in items)),
    }
    name = f"{items[0].split}-{windows}-{_digest(json.dumps(key).encode())[:16]}.npz"
    path = folder / source.identity[:16] / name
    found = _read(path, key) if path.is_file() else None
    if found is None:
        found = compute_features(source, corpus, items, windows, seed=seed, on_item=on_item)
        _write(path, found, key)
    return found


def compute_features(
    source: FeatureSource,
    corpus: Corpus,
    items: Sequence[Item],
    windows: Literal["all", "crop"],
    *,
    seed: int,
    on_item: OnItem = lambda done, of: None,
) -> Features:
    """The features of `items`; arguments as of `cached_features`."""
    num_samples = np.zeros(len(items), np.int64)
    rows: list[int] = []

    def clips() -> Iterator[np.ndarray]:
        is_direct = corpus.manifest.storage == "direct"
        for row, item in enumerate(items):
            samples = load_audio(Path(item.file), source.sample_rate_hz) if is_direct else corpus.read_samples(item)
            num_samples[row] = len(samples)
            starts = window_starts(len(samples), source.clip_num_samples)
            if windows == "crop" and len(starts):
                starts = [crop_offset(item.id, len(samples) - source.clip_num_samples + 1, seed)]
            for start in starts:
                rows.append(row)
                yield samples[start : start + source.clip_num_samples]
            on_item(row + 1, len(items))

    vectors, waiting = [], []
    # Across items, since a batch of one crop takes as long as one of several.
    for clip in clips():
        waiting.append(clip)
        if len(waiting) == _CLIPS_PER_CALL:
            vectors.append(source.features_of(np.stack(waiting)))
            waiting = []
    if waiting:
        vectors.append(source.features_of(np.stack(waiting)))
    return Features(np.concatenate(vectors), np.array(rows, np.int64), num_samples)


def crop_offset(item_id: str, num_offsets: int, seed: int) -> int:
    """Where the crop of an item begins, uniform in [0, num_offsets): the same whatever other items there are."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{item_id}".encode()).digest()[:8], "big") % num_offsets


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _content_digest(features: Features) -> str:
    arrays = (features.vectors, features.item, features.num_samples)
    return _digest(*(part for array in arrays for part in (repr(array.shape).encode(), array.tobytes())))


def _read(path: Path, key: dict[str, object]) -> Features | None:
    try:
        # Opened here, since NumPy leaves a file open that it does not take for one of its own.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = Features(arrays["vectors"], arrays["item"], arrays["num_samples"])
            facts = json.loads(str(arrays["facts"]))
        if facts["key"] != key:
            raise ValueError("it is of something else")
        if facts["sha256"] != _content_digest(found):
            raise ValueError("its checksum is wrong")
    # What NumPy, its zip file or its headers raise for damaged bytes.
    except (OSError, ValueError, KeyError, TypeError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        _LOG.warning("The cached features %s are damaged (%s); they are computed again.", path, error)
        return None
    return found


def _write(path: Path, features: Features, key: dict[str, object]) -> None:
    facts = json.dumps({"key": key, "sha256": _content_digest(features)})
    path.parent.mkdir(parents=True, exist_ok=True)
    # Into a file and not by way of the memory: these are the largest arrays of an evaluation.
    with replaced_file(path) as file:
        arrays = {"vectors": features.vectors, "item": features.item, "num_samples": features.num_samples}
        np.savez(file, facts=np.array(facts), **arrays)


def chunks_of(features: Features, clip_num_samples: int, drops_last: bool) -> tuple[Examples, int]:
    """The chunks of each item.

    Args:
        features: Of "all" windows, so that partial ones are gone already.
        clip_num_samples: Length of a window.
        drops_last: Leave out what the original does: with an item whose length is an exact multiple of a window's, a
            whole one; but keep the window of an item that would have none left.

    Returns:
        The chunks, and the number of items that would have had none.
    """
    if not drops_last:
        return Examples(features.vectors, features.item), 0
    num_windows = np.bincount(features.item, minlength=len(features.num_samples))
    is_exact = features.num_samples % clip_num_samples == 0
    is_rescued = is_exact & (num_windows == 1)
    is_last = np.append(features.item[1:] != features.item[:-1], True)
    is_dropped = is_last & (is_exact & ~is_rescued)[features.item]
    return Examples(features.vectors[~is_dropped], features.item[~is_dropped]), int(is_rescued.sum())


def means_of(examples: Examples, num_items: int) -> Examples:
    """One example an item, the mean of its own; every item needs one."""
    return Examples(mean_by_item(examples.vectors, examples.item, num_items).astype(np.float32), np.arange(num_items))


def mean_by_item(values: np.ndarray, item: np.ndarray, num_items: int) -> np.ndarray:
    """Means over the rows of each item: [rows, ...], int [rows] ascending -> float64 [num_items, ...]."""
    first = np.searchsorted(item, np.arange(num_items))
    # Around the first row of each item: the mean of equal rows is that row, and items that are alike stay tied.
    differences = values.astype(np.float64) - values[first][item]
    return values[first] + np.add.reduceat(differences, first, axis=0) / np.bincount(item)[:, None]


def clip_scores(
    head: Head, examples: Examples, num_items: int, protocol: ProbeProtocol, single_label: bool
) -> np.ndarray:
    """Probabilities of clips, float64 [items, tags]: those of their examples averaged as the protocol says."""
    logits = head.logits(examples.vectors).astype(np.float64)
    if protocol.averaged == "logits":
        return probabilities(mean_by_item(logits, examples.item, num_items), single_label)
    return mean_by_item(probabilities(logits, single_label), examples.item, num_items)


Show = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is done, and of how much."""


@dataclasses.dataclass(frozen=True)
class SplitReader:
    """Reads splits, their features from the cache.

    Attributes:
        cache: Folder of computed features.
        source: What computes them.
        prepared: The corpus as prepared, which the cache knows by its fingerprint.
        labeled: The same clips with the labels of the task.
        drops_last_chunk: See `ProbeProtocol`.
        seed: Of random crops.
        show: For progress.
    """

    cache: Path
    source: FeatureSource
    prepared: Corpus
    labeled: Corpus
    drops_last_chunk: bool
    seed: int
    show: Show

    def read(self, split: str, windows: TrainWindows) -> Split:
        """A split as one random crop, all chunks, or the mean of all windows of each clip.

        Raises:
            ClmrError: If a clip is shorter than a window.
        """
        items = self.labeled.items_of(split)
        features = cached_features(
            self.cache,
            self.source,
            self.prepared,
            items,
            "crop" if windows == "crop" else "all",
            seed=self.seed,
            on_item=partial(self.show, f"Features of {split}"),
        )
        _require_windows(features, items)
        examples, num_rescued = Examples(features.vectors, features.item), 0
        if windows == "chunks":
            examples, num_rescued = chunks_of(features, self.source.clip_num_samples, self.drops_last_chunk)
        elif windows == "mean":
            examples = means_of(examples, len(items))
        return Split(items, self.labeled.multi_hot(items), examples, num_rescued)


def _require_windows(features: Features, items: Sequence[Item]) -> None:
    lacking = np.flatnonzero(np.bincount(features.item, minlength=len(items)) == 0)
    if len(lacking):
        raise ClmrError(
            f"{len(lacking)} clips are shorter than one window, the first is {items[lacking[0]].source}; prepare the "
            "corpus again, which leaves them out."
        )
