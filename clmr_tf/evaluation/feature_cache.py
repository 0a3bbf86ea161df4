"""Features of the clips of a split, computed once and kept in a file that is verified when it is read.

    features/<identity of the source, 16 digits>/<split>-<windows>-<key, 16 digits>.npz

with `vectors`, `item`, `num_samples` (see `Features`) and `facts`, JSON: the whole key and the SHA-256 of the arrays.
"""

import dataclasses
import hashlib
import json
import logging
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from clmr_tf.audio_files import load_audio
from clmr_tf.clips import window_starts
from clmr_tf.corpus import Corpus, Item
from clmr_tf.evaluation.sources import FeatureSource
from clmr_tf.files import replaced_file

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
