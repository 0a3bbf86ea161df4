"""What a run's configuration leaves open, and whether it fits the devices and the other workers."""

import dataclasses
import hashlib
import json
import math
import re
from pathlib import Path

import tensorflow as tf

from clmr_tf.clips import num_units
from clmr_tf.command_line import to_plain
from clmr_tf.config import TrainConfig
from clmr_tf.corpus import Corpus
from clmr_tf.corpus_resolution import is_pipeline
from clmr_tf.distribution import gather_over_workers
from clmr_tf.errors import UsageError
from clmr_tf.learning_rates import default_learning_rate


def resolve_places(config: TrainConfig) -> TrainConfig:
    """The configuration with what it leaves open, but for lengths, and with places that mean the same elsewhere."""
    config = config.resolved()
    folder = Path(config.corpus).expanduser()
    # A name stays a name, so that the configuration means the same elsewhere.
    corpus = str(folder.resolve()) if folder.is_dir() and not is_pipeline(config.corpus) else config.corpus
    name = re.sub(r"[^\w.-]+", "-", folder.resolve().name).strip("-") or "music"
    workdir = (config.workdir or Path("runs") / name).expanduser()
    pretrained = config.pretrained and config.pretrained.expanduser().resolve()
    corpora = config.corpora.expanduser()
    return dataclasses.replace(config, corpus=corpus, workdir=workdir, corpora=corpora, pretrained=pretrained)


def resolve_lengths(config: TrainConfig, corpus: Corpus) -> TrainConfig:
    """The configuration with all lengths in steps of this corpus, and with its learning rate."""
    steps = steps_of_epochs(config.epochs, config, corpus) or config.steps
    return dataclasses.replace(
        config,
        steps=steps,
        warmup_steps=steps_of_epochs(config.warmup_epochs, config, corpus) or config.warmup_steps,
        warmup_epochs=0,
        decay_steps=config.decay_steps or steps,
        learning_rate=config.learning_rate
        or default_learning_rate(config.optimizer, config.batch_size, config.lars_scaling),
    )


def steps_of_epochs(num_epochs: int, config: TrainConfig, corpus: Corpus) -> int:
    """Steps that so many epochs of the train split take; an epoch of pairs drops what does not fill a batch."""
    num_examples = num_units(corpus, "train", config.sampling_unit)
    if config.has_labels:
        return math.ceil(num_epochs * num_examples / config.batch_size)
    # Of a split with too few songs for a batch, the dataset says so.
    return num_epochs * max(num_examples // config.batch_size, 1)


def require_equal_shares(config: TrainConfig, num_replicas: int) -> None:
    """Raises UsageError if the batch cannot be cut into equal parts and shares."""
    shares = num_replicas * config.micro_batches
    if config.batch_size % shares:
        raise UsageError(
            f"--batch-size must be a multiple of {shares}, for {num_replicas} devices and {config.micro_batches} "
            f"micro-batches; received {config.batch_size}."
        )


def require_same_run(strategy: tf.distribute.Strategy, config: TrainConfig, corpus: Corpus) -> None:
    """Raises UsageError if the workers were told different things.

    Each would train a model of its own, or they would wait for each other for ever.
    """
    places = {"workdir", "corpus", "corpora", "pretrained"}
    settings = {name: value for name, value in to_plain(config).items() if name not in places}
    text = json.dumps([settings, corpus.manifest.fingerprint], sort_keys=True)
    digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
    if set(gather_over_workers(strategy, digest)) != {digest}:
        raise UsageError("The workers have different settings or corpora; give all of them the same command.")
