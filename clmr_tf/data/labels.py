"""Labels: what the tags of a corpus allow, and which training examples a head may learn from."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from clmr_tf.data.corpus import SPLITS, Corpus, Item
from clmr_tf.errors import UsageError


def songs_within_share(song_ids: Sequence[str], share: float, seed: int) -> set[str]:
    """A random share of the songs: max(1, round(share × songs)) of them.

    The songs stand in an order that a hash of seed and song id decides, and the first ones are taken. So with one
    seed a smaller share is part of every larger one, and a song keeps its place when others come or go.

    Args:
        song_ids: Of every item; repetitions count once.
        share: In (0, 1].
        seed: Decides the order.
    """
    songs = sorted(set(song_ids), key=lambda song: hashlib.sha256(f"{seed}/{song}".encode()).digest())
    return set(songs[: max(1, round(share * len(songs)))])


def balanced_by_combination(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The original's subset: of every distinct combination of tags, max(1, int(n × share)) of its n examples.

    Where many combinations occur a few times only, that is far more than the share: each keeps at least one. After
    `random_undersample_balanced` of version 1 of the code, which is given chunks of 2.7 s; the draws are others.

    Args:
        labels: Multi-hot, [examples, tags].
        share: In (0, 1].
        seed: Decides which.

    Returns:
        Rows of `labels`, ascending, int64 [kept].
    """
    if not len(labels):
        return np.zeros(0, np.int64)
    generator = np.random.default_rng(seed)
    _, combination_of = np.unique(labels, axis=0, return_inverse=True)
    # NumPy 2.0 alone gives it two axes.
    combination_of = combination_of.reshape(-1)
    kept = []
    for combination in range(combination_of.max() + 1):
        rows = np.flatnonzero(combination_of == combination)
        kept.append(generator.permutation(rows)[: max(1, int(len(rows) * share))])
    return np.sort(np.concatenate(kept))


@dataclasses.dataclass(frozen=True)
class Examples:
    """What a head is shown.

    Attributes:
        vectors: float32 [examples, dimensions].
        item: Row of the item of each, int64 [examples].
    """

    vectors: np.ndarray
    item: np.ndarray

    def at(self, rows: np.ndarray) -> "Examples":
        """Some of them."""
        return Examples(self.vectors[rows], self.item[rows])


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


def has_single_labels(corpus: Corpus) -> bool:
    """Whether the task is to choose a class: as it says itself, else where every recording has exactly one tag."""
    return corpus.task.single_label if corpus.task else all(len(item.tags) == 1 for item in corpus.items)


def task_facts(corpus: Corpus) -> dict[str, Any]:
    """The entry "task" of a result: which labels of the corpus; none where they are its own."""
    return {"task": {"name": corpus.task.name, "fingerprint": corpus.manifest.fingerprint}} if corpus.task else {}


def require_probeable(corpus: Corpus, splits: Sequence[str] = SPLITS) -> None:
    """Raises UsageError if the corpus has no tags, the same tags everywhere, or lacks one of `splits`."""
    name = corpus.manifest.name
    lacking = [split for split in splits if not corpus.items_of(split)]
    if lacking or not corpus.manifest.tag_names:
        lack = f"no {' and no '.join(lacking)} split" if lacking else "no tags"
        raise UsageError(
            f"The corpus {name} has {lack}; prepare one that has, with "
            "`python -m pipelines.folder MUSIC --out FOLDER --tags folder --test-share 0.2`, and give --corpus FOLDER."
        )
    if len({frozenset(item.tags) for item in corpus.items_of("train")}) == 1:
        raise UsageError(
            f"The train split of the corpus {name} has the same tags everywhere, so there is nothing to tell apart; "
            "prepare music of at least two classes."
        )
