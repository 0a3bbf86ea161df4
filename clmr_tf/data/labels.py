"""Labels: which tasks the tags of a corpus allow, and which training examples may be used with their labels."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from clmr_tf.data.corpus import Corpus
from clmr_tf.data.index import SPLITS
from clmr_tf.errors import UsageError

# Python's strings take several times the memory of the array.
_SONGS_PER_BATCH = 65_536

# The tags of published data sets, in the order of their label vectors and published tables.
# fmt: off
# The tags of the label files of Pons et al. (https://github.com/jordipons/musicnn-training) and of tags.npy of Won et
# al.: the 50 most frequent tags in descending order, ties in the order of these files.
MAGNATAGATUNE_TAGS = (
    "guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast", "piano", "ambient",
    "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male", "singing", "vocals", "no vocals",
    "harpsichord", "loud", "quiet", "flute", "woman", "male vocal", "no vocal", "pop", "soft", "sitar", "solo",
    "man", "classic", "choir", "voice", "new age", "dance", "male voice", "female vocal", "beats", "harp", "cello",
    "no voice", "weird", "country", "metal", "female voice", "choral",
)

# The tags of 50tagList.txt of Lee et al. (https://github.com/jongpillee/music_dataset_split): the 50 most frequent tags
# of Last.fm, in this spelling.
MSD_TAGS = (
    "rock", "pop", "alternative", "indie", "electronic", "female vocalists", "dance", "00s", "alternative rock",
    "jazz", "beautiful", "metal", "chillout", "male vocalists", "classic rock", "soul", "indie rock", "Mellow",
    "electronica", "80s", "folk", "90s", "chill", "instrumental", "punk", "oldies", "blues", "hard rock", "ambient",
    "acoustic", "experimental", "female vocalist", "guitar", "Hip-Hop", "70s", "party", "country", "easy listening",
    "sexy", "catchy", "funk", "electro", "heavy metal", "Progressive rock", "60s", "rnb", "indie pop", "sad",
    "House", "happy",
)
# fmt: on


def sample_songs(song_ids: pa.ChunkedArray, fraction: float, seed: int) -> np.ndarray:
    """Selects a random fraction of the songs: max(1, round(fraction × songs)) of them.

    The songs are sorted by a hash of seed and song id, and the first ones are selected. So with the same seed, a
    smaller fraction is a subset of every larger one, and adding or removing songs does not reorder the others.

    Args:
        song_ids: The songs, strings, each of them once.
        fraction: Fraction in (0, 1].
        seed: Determines the order.

    Returns:
        Places of the selected songs in `song_ids`, int64, in the order of their hashes.
    """
    batches = (song_ids.slice(begin, _SONGS_PER_BATCH) for begin in range(0, len(song_ids), _SONGS_PER_BATCH))
    digests = (hashlib.sha256(f"{seed}/{song}".encode()).digest() for batch in batches for song in batch.to_pylist())
    order = np.argsort(np.fromiter(digests, "S32", len(song_ids)), kind="stable")
    return order[: max(1, round(fraction * len(song_ids)))]


def sample_per_combination(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Selects max(1, int(n × fraction)) of the n examples of every distinct combination of tags.

    This is the paper's subset: `random_undersample_balanced` in version 1 of the original code, applied there to
    chunks of 2.7 s (our random draws differ). At least one example of each combination is kept, so where many
    combinations are rare, far more than the fraction remains.

    Args:
        labels: Multi-hot, [examples, tags].
        fraction: Fraction in (0, 1].
        seed: Determines the draws.

    Returns:
        Rows of `labels`, ascending, int64 [selected examples].
    """
    if not len(labels):
        return np.zeros(0, np.int64)
    generator = np.random.default_rng(seed)
    _, combination_of = np.unique(labels, axis=0, return_inverse=True)
    # NumPy 2.0 returns it with two axes.
    combination_of = combination_of.reshape(-1)
    selected = []
    for combination in range(combination_of.max() + 1):
        rows = np.flatnonzero(combination_of == combination)
        selected.append(generator.permutation(rows)[: max(1, int(len(rows) * fraction))])
    return np.sort(np.concatenate(selected))


def choose_labels(
    corpus: Corpus,
    clip_of_example: np.ndarray,
    *,
    song_fraction: float = 1.0,
    combination_fraction: float | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Selects the training examples whose labels may be used.

    Args:
        corpus: The examples are selected from its train split.
        clip_of_example: Row in `corpus.items_of("train")` of the clip of each example, int [examples].
        song_fraction: See `sample_songs`; 1 for all examples.
        combination_fraction: See `sample_per_combination`; overrides `song_fraction`.
        seed: Determines the selection.

    Returns:
        The indices of the selected examples, ascending, int64; and JSON data for the result: how they were selected,
        the numbers of songs, clips and examples, selected and in total, and the tags that no selected example has.
    """
    rows = corpus.rows_of("train")
    song_of_clip = corpus.song_numbers[rows]
    if combination_fraction is not None:
        choice, fraction = "fraction of the examples of each combination of tags, at least one", combination_fraction
        selected = sample_per_combination(corpus.multi_hot(rows)[clip_of_example], fraction, seed)
    elif song_fraction < 1:
        choice, fraction = "fraction of the songs", song_fraction
        songs, firsts = np.unique(song_of_clip, return_index=True)
        song_ids = corpus.index.column("song_id").take(pa.array(corpus.index_rows[rows[firsts]]))
        chosen = songs[sample_songs(song_ids, fraction, seed)]
        selected = np.flatnonzero(np.isin(song_of_clip, chosen)[clip_of_example])
    else:
        choice, fraction = "all", 1.0
        selected = np.arange(len(clip_of_example))

    def counts(examples: np.ndarray) -> dict[str, int]:
        clips = np.unique(clip_of_example[examples])
        num_songs = len(np.unique(song_of_clip[clips]))
        return {"num_songs": num_songs, "num_clips": len(clips), "num_examples": len(examples)}

    present = np.unique(corpus.select(rows[np.unique(clip_of_example[selected])]).tag_codes)
    return selected, {
        "choice": choice,
        "fraction": fraction,
        **counts(selected),
        "of": counts(np.arange(len(clip_of_example))),
        "tags_without_positives": [name for code, name in enumerate(corpus.manifest.tag_names) if code not in present],
    }


def has_single_labels(corpus: Corpus) -> bool:
    """Whether this is single-label classification: as the task says, else if every recording has exactly one tag."""
    return corpus.task.single_label if corpus.task else bool((np.diff(corpus.tag_begins) == 1).all())


def task_metadata(corpus: Corpus) -> dict[str, Any]:
    """The entry "task" of a result: name, fingerprint, description; nothing for the corpus's own tags."""
    task, fingerprint = corpus.task, corpus.manifest.fingerprint
    return {"task": {"name": task.name, "fingerprint": fingerprint, "description": task.description}} if task else {}


def require_labels(corpus: Corpus, splits: Sequence[str] = SPLITS) -> None:
    """Raises UsageError if the corpus has no tags, the same tags on every clip, or not all of `splits`."""
    name = corpus.manifest.name
    missing = [split for split in splits if not len(corpus.rows_of(split))]
    if missing or not corpus.manifest.tag_names:
        what = f"no {' and no '.join(missing)} split" if missing else "no tags"
        raise UsageError(
            f"The corpus {name} has {what}; prepare another one with "
            "`python -m pipelines.folder MUSIC --out FOLDER --tags folder --test-fraction 0.2`, "
            "and give --corpus FOLDER."
        )
    train = corpus.select(corpus.rows_of("train"))
    num_tags = np.diff(train.tag_begins)
    if (num_tags == num_tags[0]).all() and _are_equal(train.tag_codes.reshape(len(num_tags), num_tags[0])):
        raise UsageError(
            f"All clips in the train split of the corpus {name} have the same tags, so there is nothing to classify; "
            "prepare music of at least two classes."
        )


def _are_equal(tag_codes: np.ndarray) -> bool:
    in_order = np.sort(tag_codes, axis=1)
    return bool((in_order == in_order[0]).all())
