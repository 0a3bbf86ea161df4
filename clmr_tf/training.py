"""The training of a run from beginning to end; `clmr_tf.train` is its command."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import tensorflow as tf

from clmr_tf.checkpoint import Checkpoints
from clmr_tf.clips import BatchShare, num_units, pair_dataset
from clmr_tf.command_line import to_plain
from clmr_tf.config import TrainConfig
from clmr_tf.contrastive import ContrastiveModel
from clmr_tf.corpus import Corpus
from clmr_tf.corpus_resolution import is_pipeline, is_prepared, resolve_corpus
from clmr_tf.distribution import build_strategy, largest_over_workers, num_workers, worker_index
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.learning_rates import default_learning_rate
from clmr_tf.loop.best_checkpoint import BestCheckpoint
from clmr_tf.loop.execution import distributed
from clmr_tf.loop.failures import NonFiniteError, write_nonfinite_report
from clmr_tf.loop.profile import StepProfile
from clmr_tf.loop.steps import AfterStep, Measurement, TrainingLoop
from clmr_tf.loop.validation import build_validation
from clmr_tf.model_building import build_model, checkpoint_groups
from clmr_tf.models.sample_cnn import CLIP_NUM_SAMPLES
from clmr_tf.probing import build_probe
from clmr_tf.run_examples import log_embeddings, log_views
from clmr_tf.run_folder import (
    BEST,
    CHECKPOINTS,
    METRICS_FILE,
    NONFINITE,
    TENSORBOARD,
    opened_run_folder,
    record_start,
)
from clmr_tf.run_log import RunLog, logged_row
from clmr_tf.xla_start import start_xla_quietly


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Where a run is and how many steps it had when it was started this time."""

    workdir: Path
    num_steps: int
    first_step: int


def train(config: TrainConfig, after_step: AfterStep = lambda *_: None) -> Outcome:
    """Trains until `config.steps` or `config.epochs` are done, from the newest checkpoint of the workdir if any.

    In this order: the devices are found, the workdir is checked and locked, the corpus is opened or prepared, the
    model is built, the newest checkpoint is restored, and the data begin at the step after it.

    Args:
        config: The run.
        after_step: Called after every execution of steps, see `loop.steps`.

    Raises:
        UsageError: If the configuration, the devices, the workdir and the corpus do not fit together.
        StoppedBySignalError: After SIGTERM or Ctrl-C, once everything is saved.
        ClmrError: If the training cannot go on; the newest checkpoint is as it was.
    """
    strategy = build_strategy(config.strategy, config.num_replicas)
    start_xla_quietly()
    _require_equal_shares(config, strategy.num_replicas_in_sync)
    is_chief = worker_index(strategy) == 0
    config = resolve_places(config)
    if num_workers(strategy) > 1 and not is_prepared(Path(config.corpus)):
        raise UsageError(
            f"Several workers need a prepared corpus, or each would prepare {config.corpus}; make one with "
            "`python -m pipelines.folder MUSIC --out FOLDER`, and give --corpus FOLDER."
        )
    with opened_run_folder(config.workdir, config, writes=is_chief):
        corpus = resolve_corpus(
            config.corpus,
            corpora=config.corpora,
            sample_rate_hz=config.sample_rate_hz,
            clip_num_samples=CLIP_NUM_SAMPLES[config.sample_rate_hz],
            reader=config.reader,
            max_skipped_share=config.max_skipped_share,
        )
        lengths = resolve_lengths(config, corpus)
        with strategy.scope():
            model = build_model(lengths)
        checkpoints = Checkpoints(
            config.workdir / CHECKPOINTS, checkpoint_groups(model), config.keep_checkpoints, writes=is_chief
        )
        first_step = checkpoints.restore()
        if largest_over_workers(strategy, first_step) != first_step:
            raise UsageError(
                f"Workers resume from different steps, this one from {first_step}; give all the same --workdir, "
                "on a folder that they share."
            )
        if first_step < lengths.steps:
            _run(model, strategy, corpus, config, lengths, checkpoints, first_step, after_step)
        elif is_chief:
            _best_checkpoint(config, checkpoints, first_step)
    return Outcome(config.workdir, lengths.steps, first_step)


def _run(
    model: ContrastiveModel,
    strategy: tf.distribute.Strategy,
    corpus: Corpus,
    config: TrainConfig,
    lengths: TrainConfig,
    checkpoints: Checkpoints,
    first_step: int,
    after_step: AfterStep,
) -> None:
    workdir = config.workdir

    def batches(share: BatchShare, first_step: int = first_step) -> tf.data.Dataset:
        return pair_dataset(
            corpus,
            "train",
            batch_size=config.batch_size,
            clip_num_samples=model.encoder.clip_num_samples,
            seed=config.seed,
            first_step=first_step,
            sampling_unit=config.sampling_unit,
            share=share,
        )

    dataset = distributed(strategy, batches, config.micro_batches)
    profile = StepProfile(workdir / TENSORBOARD, first_step) if config.profile else None
    boundaries = profile.boundaries if profile else ()

    def loop(log: RunLog | None, **arguments: Any) -> TrainingLoop:
        # All workers stop at the same steps, whether they have something to do there or not.
        measurements = measurements_of(model, corpus, lengths, log)
        return TrainingLoop(
            model,
            strategy,
            dataset,
            lengths,
            first_step=first_step,
            checkpoints=checkpoints,
            log=log,
            measurements=measurements,
            boundaries=boundaries,
            **arguments,
        )

    if worker_index(strategy) > 0:
        loop(log=None).run()
        return
    record_start(workdir, config, corpus, first_step)
    log = RunLog(workdir / METRICS_FILE, workdir / TENSORBOARD, first_step)
    best = _best_checkpoint(config, checkpoints, first_step)

    def observe(step: int, num_steps: int, scalars: dict[str, float] | None) -> None:
        if profile:
            profile.after_step(step)
        after_step(step, num_steps, scalars)

    try:
        if first_step == 0:
            log.text(0, "configuration", f"```json\n{json.dumps(to_plain(config), indent=2)}\n```")
            log_views(log, model, batches(BatchShare()), config)
        loop(log, best=best, after_step=observe).run()
    except NonFiniteError as error:
        batch = next(iter(batches(BatchShare(), error.step - 1)))
        items = corpus.items_of("train")
        item_ids = [items[row].id for row in batch["item"].numpy()]
        folder = workdir / NONFINITE / f"step-{error.step}"
        state = Checkpoints(folder / CHECKPOINTS, checkpoint_groups(model), keep=1)
        raise ClmrError(write_nonfinite_report(folder, error, state, item_ids)) from error
    finally:
        if profile:
            profile.close()
        log.close()


def _best_checkpoint(config: TrainConfig, checkpoints: Checkpoints, first_step: int) -> BestCheckpoint:
    """The best checkpoint so far, the one of `first_step` included."""
    best = BestCheckpoint(checkpoints, config.workdir / BEST, config.best_metric)
    # A kill may have come between saving this checkpoint and keeping it as the best.
    best.keep(first_step, logged_row(config.workdir / METRICS_FILE, first_step))
    return best


def measurements_of(
    model: ContrastiveModel, corpus: Corpus, config: TrainConfig, log: RunLog | None
) -> list[Measurement]:
    """What the configuration wants to be measured during the run; without a log, nothing will be."""
    found = []
    validate = build_validation(model, corpus, config) if config.validate_every else None
    if validate:
        found.append(Measurement(config.validate_every, validate))
    if config.probe_every_epochs:
        epoch = num_units(corpus, "train", config.sampling_unit) // config.batch_size
        found.append(Measurement(config.probe_every_epochs * epoch, build_probe(model.encoder, corpus)))
    if config.embeddings_every:
        found.append(Measurement(config.embeddings_every, lambda: log_embeddings(log, model.encoder, corpus) or {}))
    return found


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
        learning_rate=config.learning_rate or default_learning_rate(config.optimizer, config.batch_size),
    )


def _require_equal_shares(config: TrainConfig, num_replicas: int) -> None:
    shares = num_replicas * config.micro_batches
    if config.batch_size % shares:
        raise UsageError(
            f"--batch-size must be a multiple of {shares}, for {num_replicas} devices and {config.micro_batches} "
            f"micro-batches; received {config.batch_size}."
        )
