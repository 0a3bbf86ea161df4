"""Adds the task "pseudo-tags" to a prepared corpus without labels: tags that a pretrained model predicts.

    python -m pipelines.pseudo_tags --corpus corpora/debian_games

The model is MTT_musicnn, trained on MagnaTagATune's annotations and downloaded with pip (29 MB). Its probabilities are
averaged over windows of 3 seconds, spread evenly over a recording. The recordings with the highest probabilities get a
tag: as many as the model expects to have it, times a factor, the same for all tags, that gives 2.7 tags per recording
on average, as in MagnaTagATune. Tags with too few songs in a split are dropped.

A probe's score on pseudo-tags measures agreement with that model. It says little about human annotations, and cannot be
compared with results on MagnaTagATune.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soxr

from clmr_tf.config.command_line import parse_command
from clmr_tf.console import run_command, stderr, stdout
from clmr_tf.data.corpus import Corpus
from clmr_tf.data.index import SPLITS, Item
from clmr_tf.data.labels import MAGNATAGATUNE_TAGS
from clmr_tf.data.tasks import CorpusTask, Label, write_task
from clmr_tf.errors import UsageError
from clmr_tf.files import write_atomically

TASK_NAME = "pseudo-tags"
PROBABILITIES_FILE = "pseudo-tags-probabilities.json"
# Average of the 50 tags over the 25,863 clips of MagnaTagATune.
MEAN_NUM_TAGS = 2.7


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line."""

    corpus: Path | None = None
    """Folder of the prepared corpus."""
    musicnn: Path | None = None
    """The wheel musicnn-0.1.0-py3-none-any.whl; by default downloaded into downloads/musicnn next to the corpus."""
    num_windows: int = 32
    """Largest number of windows of 3 seconds per recording."""
    min_train: int = 5
    """Smallest number of songs in train for a tag to be kept."""
    min_valid: int = 1
    """Smallest number of songs in valid for a tag to be kept."""
    min_test: int = 3
    """Smallest number of songs in test for a tag to be kept."""

    def __post_init__(self) -> None:
        if self.num_windows < 1 or min(self.min_train, self.min_valid, self.min_test) < 0:
            raise UsageError(
                "--num-windows must be at least 1, and --min-train, --min-valid and --min-test at least 0."
            )


def thresholds_of(probabilities: np.ndarray, mean_num_tags: float = MEAN_NUM_TAGS) -> np.ndarray:
    """The smallest probability at which a recording gets a tag, for every tag.

    Tag k goes to round(f * sum_i p[i, k]) recordings, those of the highest probability; the factor f is the one with
    which these numbers add up to `mean_num_tags` a recording before they are rounded.

    Args:
        probabilities: [num_recordings, num_tags].
        mean_num_tags: Average number of tags per recording, at most `num_tags`.

    Returns:
        [num_tags]: halfway between the last that gets the tag and the first that does not; infinite if none does.
    """
    num_recordings, num_tags = probabilities.shape
    expected = probabilities.sum(axis=0)
    counts = np.rint(expected * mean_num_tags * num_recordings / expected.sum()).astype(int).clip(0, num_recordings)
    ranked = -np.sort(-probabilities, axis=0)
    padded = np.concatenate([np.full((1, num_tags), np.inf), ranked, np.full((1, num_tags), -np.inf)])
    columns = np.arange(num_tags)
    last, following = padded[counts, columns], padded[counts + 1, columns]
    halfway = np.where(np.isinf(following), last, (last + following) / 2)
    # Recordings of equal probability all get the tag.
    return np.where(last == following, last, halfway)


def pseudo_tags_task(
    items: Sequence[Item],
    probabilities: np.ndarray,
    tag_names: Sequence[str],
    min_songs: Mapping[str, int],
    mean_num_tags: float = MEAN_NUM_TAGS,
) -> tuple[CorpusTask, dict[str, dict[str, int]]]:
    """The task, and the tags that are dropped from it.

    Args:
        items: Recordings of a corpus; they keep their splits.
        probabilities: [num_items, num_tags].
        tag_names: The tags in that order.
        min_songs: Songs that a tag must have in each split.
        mean_num_tags: Tags of a recording on average, before any are dropped.

    Returns:
        The task; for each tag that was dropped, its songs in each split.

    Raises:
        UsageError: If no tag is left.
    """
    carried = probabilities >= thresholds_of(probabilities, mean_num_tags)
    num_songs = {
        tag: {
            split: len({item.song_id for item, has in zip(items, column, strict=True) if has and item.split == split})
            for split in min_songs
        }
        for tag, column in zip(tag_names, carried.T, strict=True)
    }
    kept = [tag for tag in tag_names if all(num_songs[tag][split] >= min_songs[split] for split in min_songs)]
    if not kept:
        raise UsageError("No tag has enough songs in every split; use a larger corpus or a smaller --min-test.")
    is_kept = np.isin(tag_names, kept)
    mean_num_kept = carried[:, is_kept].sum() / len(items)
    task = CorpusTask(
        name=TASK_NAME,
        description="Pseudo-tags: MagnaTagATune's tags as the model MTT_musicnn predicts them; no person has tagged "
        f"this music. {len(kept)} of {len(tag_names)} tags, {mean_num_kept:.2f} a recording.",
        tag_names=tuple(kept),
        single_label=False,
        items={
            item.id: Label(item.split, tuple(np.compress(row & is_kept, tag_names).tolist()))
            for item, row in zip(items, carried, strict=True)
        },
    )
    return task, {tag: num_songs[tag] for tag in tag_names if tag not in kept}


def window_starts(num_samples: int, window_num_samples: int, num_windows: int) -> np.ndarray:
    """First samples of windows that are spread evenly over a recording and do not overlap, fewer if it is short."""
    num_windows = max(1, min(num_windows, num_samples // window_num_samples))
    return np.linspace(0, max(0, num_samples - window_num_samples), num_windows).astype(int)


def predicted_probabilities(corpus: Corpus, wheel: Path | None, num_windows: int) -> np.ndarray:
    """The model's probabilities for every recording, [num_items, 50], cached in a file of the corpus.

    Args:
        corpus: A corpus with storage "pcm".
        wheel: The wheel of the package musicnn; downloaded if None.
        num_windows: Largest number of windows per recording.
    """
    path = corpus.folder / PROBABILITIES_FILE
    made_from = {"corpus_fingerprint": corpus.manifest.fingerprint, "num_windows": num_windows}
    if path.is_file():
        there = json.loads(path.read_text(encoding="utf-8"))
        if all(there.get(key) == value for key, value in made_from.items()):
            return np.array([there["probabilities"][item.id] for item in corpus.items])
    # Imported late, because it imports TensorFlow.
    from pipelines import musicnn

    wheel = wheel or musicnn.fetch_wheel(corpus.folder.parent / "downloads" / "musicnn")
    tagger = musicnn.build_tagger(musicnn.read_weights(wheel))
    rows = []
    for number, item in enumerate(corpus.items, start=1):
        audio = soxr.resample(corpus.read_samples(item), corpus.manifest.sample_rate_hz, musicnn.SAMPLE_RATE_HZ)
        audio = np.pad(audio, (0, max(0, musicnn.WINDOW_NUM_SAMPLES - len(audio))))
        starts = window_starts(len(audio), musicnn.WINDOW_NUM_SAMPLES, num_windows)
        windows = np.stack([audio[start : start + musicnn.WINDOW_NUM_SAMPLES] for start in starts])
        rows.append(np.mean(tagger.predict_on_batch(musicnn.log_mel(windows)), axis=0).round(6).tolist())
        if number % 20 == 0 or number == len(corpus.items):
            stderr.print(f"Predicting tags: {number} of {len(corpus.items)} recordings", markup=False)
    content = {
        "description": "Pseudo-tags: mean probabilities of the model MTT_musicnn (musicnn 0.1.0) for each recording.",
        **made_from,
        "tag_names": MAGNATAGATUNE_TAGS,
        "probabilities": {item.id: row for item, row in zip(corpus.items, rows, strict=True)},
    }
    write_atomically(path, json.dumps(content, indent=1) + "\n")
    return np.array(rows)


def main(arguments: Sequence[str]) -> None:
    """The command, without the program's name in `arguments`."""
    options = parse_command(Options, arguments, program="python -m pipelines.pseudo_tags", description=__doc__)
    if options.corpus is None:
        raise UsageError("Give the corpus to add pseudo-tags to, such as --corpus corpora/debian_games.")
    corpus = Corpus.open(options.corpus.expanduser())
    if corpus.manifest.storage != "pcm":
        raise UsageError(f"{corpus.folder} has no decoded audio; prepare it with --reader prepared.")
    min_songs = dict(zip(SPLITS, (options.min_train, options.min_valid, options.min_test), strict=True))
    probabilities = predicted_probabilities(
        corpus, options.musicnn and options.musicnn.expanduser(), options.num_windows
    )
    task, dropped = pseudo_tags_task(tuple(corpus.items), probabilities, MAGNATAGATUNE_TAGS, min_songs)
    path = write_task(task, corpus.folder)
    tags = corpus.for_task(TASK_NAME)
    carried = len(tags.tag_codes) / len(tags.items)
    stdout.print(
        f"{path}: {len(task.tag_names)} pseudo-tags ({', '.join(task.tag_names)}), {carried:.2f} per recording; "
        f"dropped for too few songs in train, valid and test: {_listed(dropped)}.",
        markup=False,
    )


def _listed(dropped: Mapping[str, Mapping[str, int]]) -> str:
    return ", ".join(f"{tag} ({', '.join(map(str, songs.values()))})" for tag, songs in dropped.items()) or "none"


if __name__ == "__main__":
    sys.exit(run_command(main))
