"""What of a corpus a run learns from, and which labels."""

import dataclasses
from typing import Any

import numpy as np

from clmr_tf.config import TrainConfig
from clmr_tf.corpus import Corpus
from clmr_tf.errors import UsageError
from clmr_tf.evaluation.examples import Examples
from clmr_tf.evaluation.splits import Split, choose_labels
from clmr_tf.model_building import TagsToLearn
from clmr_tf.probing import has_single_labels, require_probeable, task_facts


@dataclasses.dataclass(frozen=True)
class TrainingMusic:
    """What a run learns from and is measured on.

    Attributes:
        learned: Its train split is learned from, its valid split validates.
        labelled: The corpus with all labels of the task, for probes.
        tags: What an objective with labels tells apart.
        labels: The task, its tags, and which labels may be used (`choose_labels`), as JSON data; run.json holds it.
    """

    learned: Corpus
    labelled: Corpus
    tags: TagsToLearn | None = None
    labels: dict[str, Any] | None = None


def training_music(corpus: Corpus, config: TrainConfig) -> TrainingMusic:
    """Finds the music and the labels of a run.

    An objective without labels learns from the train split of the corpus itself, whatever the task. One with labels
    learns from those clips whose labels it may use: the ones that `python -m clmr_tf.probe` takes for the same share
    and seed, so that a head on frozen features and a network trained from nothing see the same.

    Raises:
        UsageError: If there is no such task, or an objective with labels finds none, or is to be judged by what is not
            measured of them.
    """
    labelled = corpus if config.task is None else corpus.for_task(config.task)
    if not config.has_labels:
        return TrainingMusic(corpus, labelled)
    require_probeable(labelled, ("train", "valid"))
    items, tag_names = labelled.items_of("train"), labelled.manifest.tag_names
    clips = Examples(np.zeros((len(items), 0), np.float32), np.arange(len(items)))
    part, chosen = choose_labels(
        Split(items, labelled.multi_hot(items), clips),
        tag_names,
        song_share=config.labels,
        combination_share=config.labels_like_paper,
        seed=config.seed,
    )
    kept = {items[row].id for row in part.examples.item}
    learned = dataclasses.replace(
        labelled, items=tuple(item for item in labelled.items if item.split != "train" or item.id in kept)
    )
    tags = TagsToLearn(len(tag_names), has_single_labels(labelled))
    _require_measurable(config.best_metric, tags)
    facts = {**task_facts(labelled), "tag_names": list(tag_names), "single_label": tags.single_label, "chosen": chosen}
    return TrainingMusic(learned, labelled, tags, facts)


def _require_measurable(best_metric: str, tags: TagsToLearn) -> None:
    measured, other = "validation_accuracy", "validation_average_precision"
    if not tags.single_label:
        measured, other = other, measured
    if best_metric == other:
        kind = "one tag each" if tags.single_label else "several tags"
        raise UsageError(f"The clips have {kind}, of which --best-metric {other} is not measured; use {measured}.")
