"""What a run's configuration leaves open, and whether it fits the devices and the other workers."""

import dataclasses
import hashlib
import json
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
    """The configuration with the places that it leaves open or that depend on where the command was started."""
    folder = Path(config.corpus).expanduser()
    # A name stays a name, so that the configuration means the same elsewhere.
    corpus = str(folder.resolve()) if folder.is_dir() and not is_pipeline(config.corpus) else config.corpus
    name = re.sub(r"[^\w.-]+", "-", folder.resolve().name).strip("-") or "music"
    workdir = (config.workdir or Path("runs") / name).expanduser()
    return dataclasses.replace(config, corpus=corpus, workdir=workdir, corpora=config.corpora.expanduser())


def resolve_lengths(config: TrainConfig, corpus: Corpus) -> TrainConfig:
    """The configuration with all lengths in steps of this corpus, and with its learning rate."""
    epoch = num_units(corpus, "train", config.sampling_unit) // config.batch_size
    # Of a split with too few songs for a batch, the dataset says so.
    steps = config.epochs * max(epoch, 1) or config.steps
    return dataclasses.replace(
        config,
        steps=steps,
        warmup_steps=config.warmup_epochs * epoch or config.warmup_steps,
        warmup_epochs=0,
        decay_steps=config.decay_steps or steps,
        learning_rate=config.learning_rate
        or default_learning_rate(config.optimizer, config.batch_size, config.lars_scaling),
    )


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
    places = {"workdir", "corpus", "corpora"}
    settings = {name: value for name, value in to_plain(config).items() if name not in places}
    text = json.dumps([settings, corpus.manifest.fingerprint], sort_keys=True)
    digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
    if set(gather_over_workers(strategy, digest)) != {digest}:
        raise UsageError("The workers have different settings or corpora; give all of them the same command.")
