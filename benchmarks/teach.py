"""python -m benchmarks.teach: how many songs a tag needs, chosen at random or as `clmr_tf.teach` offers them.

Prints one JSON object. Every class of a task of a prepared corpus is taught as a tag: a person has one song in mind,
and then says of one song after another whether it has the tag. Half the songs of each class are held out: they are
neither marked nor offered. `precision_at_20` is the fraction of the first 20 songs that have the tag, among those held
out, divided by the greatest that is possible (a class may have fewer than 20 songs): the mean over classes and draws,
with the standard error of the mean over draws. Both ways start with the same song in each draw.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clmr_tf.console import run_command, stderr, stdout
from clmr_tf.data.corpus import Corpus
from clmr_tf.data.index import SPLITS
from clmr_tf.errors import UsageError
from clmr_tf.inference.encoder import load_encoder
from clmr_tf.inference.teaching import Space, fit_points
from clmr_tf.models.heads import probabilities
from clmr_tf.probe.features import EncoderFeatures, read_features

NUM_FIRST = 20
# A class with fewer songs has too few to hold out.
MIN_SONGS = 8


def mean_embeddings(corpus: Corpus, model: Path, cache: Path) -> dict[str, np.ndarray]:
    """Mean embedding of each item by its id, float32 [512]."""
    source = EncoderFeatures(load_encoder(model), "model", {})
    means: dict[str, np.ndarray] = {}
    for split in SPLITS:
        features = read_features(source, corpus, split, cache=cache, fingerprint=corpus.manifest.fingerprint)
        means.update(zip((item.id for item in corpus.items_of(split)), features.means().vectors, strict=True))
    return means


def taught(
    space: Space, is_tag: np.ndarray, generator: np.random.Generator, counts: Sequence[int], *, offered: bool
) -> list[float]:
    """Teaches one tag, and scores it after each of `counts` songs.

    Args:
        space: The songs.
        is_tag: Which of them have the tag, bool [songs].
        generator: Draws the songs that are held out, the first song and, unless `offered`, the others.
        counts: Numbers of marked songs, ascending.
        offered: Whether songs are marked as they are offered, instead of at random.
    """
    is_held_out = np.zeros(len(is_tag), bool)
    for value in (False, True):
        rows = generator.permutation(np.flatnonzero(is_tag == value))
        is_held_out[rows[: len(rows) // 2]] = True
    order = generator.permutation(np.flatnonzero(~is_held_out)).tolist()
    first = next(row for row in order if is_tag[row])
    others = iter([row for row in order if row != first])
    marked, scores = [first], []
    greatest = min(NUM_FIRST, int(np.sum(is_tag & is_held_out)))
    for count in range(1, counts[-1] + 1):
        if offered or count in counts:
            logits = fit_points(space.songs[marked], is_tag[marked]).logits(space.songs)
        if count in counts:
            ranked = np.argsort(-logits, kind="stable")
            best = ranked[is_held_out[ranked]][:NUM_FIRST]
            scores.append(float(is_tag[best].sum() / greatest))
        if offered:
            marked += space.offers(probabilities(logits.astype(np.float64), False), marked, is_held_out, 1)
        else:
            marked += [row for row in [next(others, None)] if row is not None]
    return scores


def measure_task(corpus: Corpus, task_name: str, means: dict[str, np.ndarray], options: Any) -> dict[str, Any]:
    """Teaches all classes of a task, several times, in both ways."""
    task = corpus.for_task(task_name)
    labels = {item.id: set(item.tags) for item in task.items}
    space = Space(np.stack([means[item] for item in labels]))
    is_tag = {name: np.array([name in tags for tags in labels.values()]) for name in task.manifest.tag_names}
    is_tag = {name: rows for name, rows in is_tag.items() if MIN_SONGS <= rows.sum() <= len(rows) - MIN_SONGS}
    if not is_tag:
        raise UsageError(f"No class of the task {task_name} has {MIN_SONGS} songs; choose another --tasks.")
    result: dict[str, Any] = {"num_songs": len(labels), "num_classes": len(is_tag)}
    for way in ("random", "offered"):
        by_draw = []
        for draw in range(options.draws):
            scores = [
                taught(space, rows, np.random.default_rng([draw, number]), options.counts, offered=way == "offered")
                for number, rows in enumerate(is_tag.values())
            ]
            by_draw.append(np.mean(scores, axis=0))
            stderr.print(f"{task_name}, {way}: draw {draw + 1} of {options.draws}", markup=False)
        mean, error = np.mean(by_draw, axis=0), np.std(by_draw, axis=0, ddof=1) / np.sqrt(options.draws)
        result[way] = {
            str(count): {"precision_at_20": float(mean[place]), "standard_error": float(error[place])}
            for place, count in enumerate(options.counts)
        }
    return result


def main(arguments: Sequence[str]) -> None:
    """Prints the result of the benchmark; `arguments` exclude the program's name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.teach", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="model folder or run folder")
    parser.add_argument("--corpus", type=Path, required=True, help="folder of a prepared corpus")
    parser.add_argument("--tasks", nargs="+", default=["artist", "soundtrack"], help="tasks of the corpus")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 5, 10, 20, 50], help="numbers of marked songs")
    parser.add_argument("--draws", type=int, default=10, help="repetitions with other songs (default: 10)")
    parser.add_argument("--features-cache", type=Path, default=Path("features"), help="folder of computed features")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if options.draws < 2 or min(options.counts) < 1 or options.counts != sorted(set(options.counts)):
        parser.error("--draws must be at least 2, and --counts ascending")
    corpus = Corpus.open(options.corpus)
    means = mean_embeddings(corpus, options.model, options.features_cache)
    result: dict[str, Any] = {"corpus": corpus.manifest.fingerprint, "draws": options.draws}
    result["tasks"] = {name: measure_task(corpus, name, means, options) for name in options.tasks}
    stdout.out(json.dumps(result, indent=2))


if __name__ == "__main__":
    sys.exit(run_command(main))
