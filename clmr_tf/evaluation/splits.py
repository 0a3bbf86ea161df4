"""The clips of a split, with the features that are learnt or scored and with the labels that may be used."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from clmr_tf.corpus import Corpus, Item
from clmr_tf.errors import ClmrError
from clmr_tf.evaluation.examples import Examples, chunks_of, means_of
from clmr_tf.evaluation.feature_cache import Features, cached_features
from clmr_tf.evaluation.label_subsets import balanced_by_combination, songs_within_share
from clmr_tf.evaluation.protocols import TrainWindows
from clmr_tf.evaluation.sources import FeatureSource

Show = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is done, and of how much."""


@dataclasses.dataclass(frozen=True)
class Split:
    """The clips of a split and what is shown of them to a head.

    Attributes:
        items: The clips.
        labels: Multi-hot, float32 [clips, tags].
        examples: What is learnt or scored.
        num_rescued: Clips that the original could not score, see `chunks_of`.
    """

    items: tuple[Item, ...]
    labels: np.ndarray
    examples: Examples
    num_rescued: int = 0

    @property
    def example_labels(self) -> np.ndarray:
        """Multi-hot, float32 [examples, tags]."""
        return self.labels[self.examples.item]

    def counts(self) -> dict[str, int]:
        """Songs, clips and examples that are shown."""
        clips = np.unique(self.examples.item)
        songs = {self.items[clip].song_id for clip in clips}
        return {"num_songs": len(songs), "num_clips": len(clips), "num_examples": len(self.examples.item)}


@dataclasses.dataclass(frozen=True)
class SplitReader:
    """Reads splits, their features from the cache.

    Attributes:
        cache: Folder of computed features.
        source: What computes them.
        prepared: The corpus as prepared, which the cache knows by its fingerprint.
        labeled: The same clips with the labels of the task.
        drops_last_chunk: See `Protocol`.
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


def choose_labels(
    train: Split, tag_names: Sequence[str], *, song_share: float, combination_share: float | None, seed: int
) -> tuple[Split, dict[str, Any]]:
    """The part of the train split whose labels may be used.

    Args:
        train: The whole.
        tag_names: Of its labels.
        song_share: See `songs_within_share`; 1 for all.
        combination_share: If not None, see `balanced_by_combination`, and `song_share` is of no effect.
        seed: Decides which.

    Returns:
        The part, and as JSON data how it was chosen, its size, that of the whole, and the tags that no example of the
        part has.
    """
    rows = np.arange(len(train.examples.item))
    if combination_share is not None:
        choice, share = "share of the examples of each combination of tags, at least one", combination_share
        rows = balanced_by_combination(train.example_labels, share, seed)
    elif song_share < 1:
        choice, share = "share of the songs", song_share
        songs = songs_within_share([item.song_id for item in train.items], share, seed)
        is_chosen = np.array([item.song_id in songs for item in train.items])
        rows = np.flatnonzero(is_chosen[train.examples.item])
    else:
        choice, share = "all", 1.0
    part = dataclasses.replace(train, examples=train.examples.at(rows))
    has_positive = part.example_labels.any(axis=0)
    return part, {
        "choice": choice,
        "share": share,
        **part.counts(),
        "of": train.counts(),
        "tags_without_positives": [name for name, has in zip(tag_names, has_positive, strict=True) if not has],
    }


def _require_windows(features: Features, items: Sequence[Item]) -> None:
    lacking = np.flatnonzero(np.bincount(features.item, minlength=len(items)) == 0)
    if len(lacking):
        raise ClmrError(
            f"{len(lacking)} clips are shorter than one window, the first is {items[lacking[0]].source}; prepare the "
            "corpus again, which leaves them out."
        )
