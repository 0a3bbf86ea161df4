"""Retrieval without labels: which of the recordings that were not used in training does a view come from?"""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from clmr_tf.augment.chain import AugmentationChain
from clmr_tf.config.augmentation import AUGMENTATION_NAMES, AugmentationConfig, augmentation_preset
from clmr_tf.data.corpus import Corpus
from clmr_tf.data.index import Item
from clmr_tf.errors import UsageError
from clmr_tf.probe.features import FeatureSource, OnProgress, read_recording
from clmr_tf.probe.scores import Score, resampling_weights

CLEAN, CHAIN = "clean", "chain"
CONDITIONS: Mapping[str, AugmentationConfig | None] = {
    CLEAN: None,
    **{name: dataclasses.replace(augmentation_preset(f"only-{name}"), asymmetric=False) for name in AUGMENTATION_NAMES},
    CHAIN: augmentation_preset("released"),
}
"""How the queries are augmented: not at all, always by one augmentation, or by the released chain. The same for every
encoder, regardless of how it was trained."""
METRICS = ("recall_at_1", "mean_reciprocal_rank")

MIN_NUM_QUERIES = 300
MIN_NUM_RECORDINGS = 10
_CLIPS_PER_CALL = 32
_MIN_NORM = 1e-12
# Largest difference between cosines that count as equal.
_MAX_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Draw:
    """One query and the crop of the same recording that it should find.

    Attributes:
        candidate_offset: First sample of the candidate's crop.
        query_offset: First sample of the query's crop; the two crops do not overlap.
        view_seeds: Seeds of the query's augmentations, int32 [2].
    """

    candidate_offset: int
    query_offset: int
    view_seeds: np.ndarray


@dataclasses.dataclass(frozen=True)
class RetrievalViews:
    """The views for retrieval; they do not depend on the encoder.

    Attributes:
        split: The split of the recordings, "test" or "valid".
        recordings: One of each song, in a random order.
        num_queried: How many of them, from the first on, are queried; all are candidates.
        num_too_short: Songs of the split without a recording of at least two clips.
        num_rounds: How often each is queried, each time with other crops of all recordings.
        clip_num_samples: Length of a crop.
        seed: Seed of the order, the crops and the augmentations.
    """

    split: str
    recordings: tuple[Item, ...]
    num_queried: int
    num_too_short: int
    num_rounds: int
    clip_num_samples: int
    seed: int

    def draw(self, recording: Item, round_number: int) -> Draw:
        """Draws from a hash of seed, recording and round; a view depends on nothing else."""
        digest = hashlib.sha256(f"{self.seed}/{recording.id}/{round_number}".encode()).digest()
        first, second, swap = (int.from_bytes(digest[start : start + 8], "big") for start in (0, 8, 16))
        num_free = recording.num_samples - 2 * self.clip_num_samples
        earlier, later = sorted((first % (num_free + 1), second % (num_free + 1)))
        offsets = earlier, later + self.clip_num_samples
        candidate, query = offsets[::-1] if swap % 2 else offsets
        return Draw(candidate, query, np.frombuffer(digest[24:], "<i4"))

    @property
    def identity(self) -> list[Any]:
        """JSON data that is equal if all views of the same corpus are equal."""
        conditions = {name: dataclasses.asdict(one) if one else None for name, one in CONDITIONS.items()}
        return [self.describe(), [item.id for item in self.recordings], conditions]

    def describe(self) -> dict[str, Any]:
        """The entries of a result that describe the queries, and the scores of guessing."""
        num_candidates = len(self.recordings)
        return {
            "split": self.split,
            "num_candidates": num_candidates,
            "num_queried": self.num_queried,
            "num_queries": self.num_queried * self.num_rounds,
            "num_too_short": self.num_too_short,
            "clip_num_samples": self.clip_num_samples,
            "similarity": "cosine of features, each standardised by mean and standard deviation over the candidates",
            "chance": {
                "recall_at_1": 1 / num_candidates,
                "mean_reciprocal_rank": float(np.mean(1 / np.arange(1, num_candidates + 1))),
            },
        }


def draw_views(corpus: Corpus, clip_num_samples: int, seed: int) -> RetrievalViews:
    """Selects recordings of the test split, or of the validation split if there is no test split.

    The first recording of at least two clips represents each song, because another recording of the song would not be a
    wrong answer. There are at least MIN_NUM_QUERIES queries: all recordings in several rounds or, if there are more
    recordings, that many of them once.

    Args:
        corpus: The corpus; its tags are not used.
        clip_num_samples: Length of a crop.
        seed: Seed of the views.

    Raises:
        UsageError: If there are fewer than MIN_NUM_RECORDINGS.
    """
    split = "test" if len(corpus.rows_of("test")) else "valid"
    rows = corpus.rows_of(split)
    is_long = corpus.num_samples[rows] >= 2 * clip_num_samples
    _, firsts = np.unique(corpus.song_numbers[rows[is_long]], return_index=True)
    recordings = corpus.items_at(rows[is_long][firsts])
    if len(recordings) < MIN_NUM_RECORDINGS:
        raise UsageError(
            f"The {split} split of the corpus {corpus.manifest.name} has {len(recordings)} songs with a recording of "
            f"at least {2 * clip_num_samples / corpus.manifest.sample_rate_hz:.1f} s, and retrieval needs "
            f"{MIN_NUM_RECORDINGS}; give a corpus with more music in its test split."
        )
    order = sorted(recordings, key=lambda item: hashlib.sha256(f"{seed}/{item.id}".encode()).digest())
    return RetrievalViews(
        split=split,
        recordings=tuple(order),
        num_queried=min(len(order), MIN_NUM_QUERIES),
        num_too_short=len(np.unique(corpus.song_numbers[rows])) - len(recordings),
        num_rounds=-(-MIN_NUM_QUERIES // len(order)),
        clip_num_samples=clip_num_samples,
        seed=seed,
    )


def score_retrieval(
    views: RetrievalViews,
    corpus: Corpus,
    sources: Sequence[FeatureSource],
    on_progress: OnProgress = lambda what, done, total: None,
) -> list[dict[str, Score]]:
    """Ranks the candidates of every query by similarity, and scores the ranks of the right ones.

    Args:
        views: Queries and candidates.
        corpus: The corpus that the views were drawn from.
        sources: Features to score, all on the same views, which are made once.
        on_progress: Called with what is being computed, the amount done and the total.

    Returns:
        For each source, by CONDITION/METRIC such as "pitch/recall_at_1", the mean over the queried recordings, with its
        distribution over 1,000 resamplings of these recordings. The candidates stay the same.
    """
    candidates = _features(views, corpus, sources, None, len(views.recordings), partial(on_progress, "Candidates"))
    weights = resampling_weights(range(views.num_queried))
    scores: list[dict[str, Score]] = [{} for _ in sources]
    for condition, config in CONDITIONS.items():
        augment = _augmentation(config, corpus.manifest.sample_rate_hz, views.clip_num_samples)
        report = partial(on_progress, f"Queries, {condition}")
        queries = _features(views, corpus, sources, augment, views.num_queried, report)
        for of_source, asked, offered in zip(scores, queries, candidates, strict=True):
            ranks = ranks_of(asked, offered)
            for metric, values in zip(METRICS, (ranks == 1, 1 / ranks), strict=True):
                by_recording = values.mean(axis=1)
                resampled = weights @ by_recording / views.num_queried
                of_source[f"{condition}/{metric}"] = Score(float(by_recording.mean()), resampled)
    return scores


def ranks_of(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Ranks of the right candidates by cosine similarity; candidates that are equally similar share their mean rank.

    Features are standardised over all candidates first. Otherwise the part that all recordings share would dominate the
    cosine, for some kinds of features far more than for others.

    Args:
        queries: float [queried, rounds, dimensions].
        candidates: float [recordings, rounds, dimensions]; row k is the right one for row k of `queries`, in the same
            round.

    Returns:
        float64 [queried, rounds], from 1.
    """
    flat = candidates.reshape(-1, candidates.shape[-1]).astype(np.float64)
    mean, standard_deviation = flat.mean(axis=0), flat.std(axis=0)
    standard_deviation[standard_deviation == 0] = 1

    def directions(vectors: np.ndarray) -> np.ndarray:
        centred = (vectors - mean) / standard_deviation
        return centred / np.maximum(np.linalg.norm(centred, axis=-1, keepdims=True), _MIN_NORM)

    similarities = np.einsum("qrd,crd->qrc", directions(queries), directions(candidates), optimize=True)
    right = similarities[np.arange(len(queries)), :, np.arange(len(queries))][:, :, None]
    num_better = (similarities > right + _MAX_ROUNDING).sum(axis=2)
    # The right candidate itself is among the equal ones.
    num_equal = (np.abs(similarities - right) <= _MAX_ROUNDING).sum(axis=2) - 1
    return 1 + num_better + num_equal / 2


Augment = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Takes clips, float32 [n, samples], and seeds, int32 [n, 2]; gives views like the clips."""


def _augmentation(config: AugmentationConfig | None, sample_rate_hz: int, clip_num_samples: int) -> Augment:
    if config is None:
        return lambda clips, seeds: clips
    chain = AugmentationChain(config, sample_rate_hz)
    signature = [tf.TensorSpec([None, clip_num_samples], tf.float32), tf.TensorSpec([None, 2], tf.int32)]
    apply = tf.function(chain, input_signature=signature, autograph=False)
    return lambda clips, seeds: apply(tf.constant(clips), tf.constant(seeds)).numpy()


def _features(
    views: RetrievalViews,
    corpus: Corpus,
    sources: Sequence[FeatureSource],
    augment: Augment | None,
    num_recordings: int,
    on_recording: Callable[[int, int], None],
) -> list[np.ndarray]:
    """Features of the queries, or of the candidates if `augment` is None: [recordings, rounds, ...] for each source."""

    def crops() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number, recording in enumerate(views.recordings[:num_recordings], 1):
            samples = read_recording(corpus, recording)
            for round_number in range(views.num_rounds):
                drawn = views.draw(recording, round_number)
                start = drawn.candidate_offset if augment is None else drawn.query_offset
                yield samples[start : start + views.clip_num_samples], drawn.view_seeds
            on_recording(number, num_recordings)

    found: list[list[np.ndarray]] = [[] for _ in sources]
    every = crops()
    while batch := list(itertools.islice(every, _CLIPS_PER_CALL)):
        clips, seeds = (np.stack(parts) for parts in zip(*batch, strict=True))
        clips = clips if augment is None else augment(clips, seeds)
        for vectors, source in zip(found, sources, strict=True):
            vectors.append(source.features_of(clips))
    return [np.concatenate(vectors).reshape(num_recordings, views.num_rounds, -1) for vectors in found]
