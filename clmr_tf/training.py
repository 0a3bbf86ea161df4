"""The training of a run from beginning to end; `clmr_tf.train` is its command."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from clmr_tf.checkpoint import Checkpoints
from clmr_tf.clips import BatchShare, num_units, pair_dataset
from clmr_tf.command_line import to_plain
from clmr_tf.config import TrainConfig
from clmr_tf.contrastive import ContrastiveModel
from clmr_tf.corpus import Corpus
from clmr_tf.corpus_resolution import is_prepared, resolve_corpus
from clmr_tf.distribution import build_strategy, gather_over_workers, num_workers, worker_index
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.loop.best_checkpoint import BestCheckpoint
from clmr_tf.loop.execution import distributed
from clmr_tf.loop.failures import NonFiniteError, write_nonfinite_report
from clmr_tf.loop.pending_row import PendingRow
from clmr_tf.loop.profile import StepProfile
from clmr_tf.loop.steps import AfterStep, Measurement, Record, TrainingLoop
from clmr_tf.loop.validation import build_validation
from clmr_tf.loop.watchdog import watched_workers
from clmr_tf.model_building import build_model, checkpoint_groups
from clmr_tf.models.sample_cnn import CLIP_NUM_SAMPLES
from clmr_tf.probing import build_probe
from clmr_tf.run_examples import log_embeddings, log_views
from clmr_tf.run_folder import (
    BEST,
    CHECKPOINTS,
    METRICS_FILE,
    NONFINITE,
    PENDING_FILE,
    TENSORBOARD,
    opened_run_folder,
    record_start,
)
from clmr_tf.run_log import RunLog
from clmr_tf.run_settings import require_equal_shares, require_same_run, resolve_lengths, resolve_places
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
    require_equal_shares(config, strategy.num_replicas_in_sync)
    is_chief = worker_index(strategy) == 0
    config = resolve_places(config)
    if num_workers(strategy) > 1 and not is_prepared(Path(config.corpus)):
        raise UsageError(
            f"Several workers need a prepared corpus, or each would prepare {config.corpus}; make one with "
            "`python -m pipelines.folder MUSIC --out FOLDER`, and give --corpus FOLDER."
        )
    with (
        watched_workers(strategy, config.worker_timeout_seconds) as progressed,
        opened_run_folder(config.workdir, config, writes=is_chief),
    ):
        corpus = resolve_corpus(
            config.corpus,
            corpora=config.corpora,
            sample_rate_hz=config.sample_rate_hz,
            clip_num_samples=CLIP_NUM_SAMPLES[config.sample_rate_hz],
            reader=config.reader,
            max_skipped_share=config.max_skipped_share,
        )
        require_same_run(strategy, config, corpus)
        lengths = resolve_lengths(config, corpus)
        with strategy.scope():
            model = build_model(lengths)
        checkpoints = Checkpoints(
            config.workdir / CHECKPOINTS, checkpoint_groups(model), config.keep_checkpoints, writes=is_chief
        )
        first_step = checkpoints.restore()
        if set(gather_over_workers(strategy, first_step)) != {first_step}:
            raise UsageError(
                f"Workers resume from different steps, this one from {first_step}; give all the same --workdir, "
                "on a folder that they share."
            )
        pending = PendingRow(config.workdir / PENDING_FILE)
        if first_step < lengths.steps or pending.read(first_step) is not None:
            _run(model, strategy, corpus, config, lengths, checkpoints, pending, first_step, progressed, after_step)
    return Outcome(config.workdir, lengths.steps, first_step)


def _run(
    model: ContrastiveModel,
    strategy: tf.distribute.Strategy,
    corpus: Corpus,
    config: TrainConfig,
    lengths: TrainConfig,
    checkpoints: Checkpoints,
    pending: PendingRow,
    first_step: int,
    progressed: Callable[[], None],
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

    def loop(record: Record | None, **arguments: Any) -> TrainingLoop:
        measurements = measurements_of(model, corpus, lengths, record.log if record else None)
        return TrainingLoop(
            model,
            strategy,
            dataset,
            lengths,
            first_step=first_step,
            checkpoints=checkpoints,
            record=record,
            measurements=measurements,
            boundaries=boundaries,
            progressed=progressed,
            **arguments,
        )

    if worker_index(strategy) > 0:
        try:
            loop(record=None).run()
        except NonFiniteError:
            # The chief writes a report first.
            gather_over_workers(strategy, 0)
            raise
        return
    record_start(workdir, config, corpus, first_step)
    log = RunLog(
        workdir / METRICS_FILE,
        workdir / TENSORBOARD,
        # What is logged before the first step, and a row that is still to be completed, is logged again.
        first_step - 1 if first_step == 0 or pending.read(first_step) is not None else first_step,
        tolerates_failed_writes=config.on_failed_save == "continue",
    )
    measured_on: dict[str, object] = {"corpus": corpus.manifest.fingerprint}
    if config.best_metric != "probe_score":
        measured_on["num_validation_pairs"] = config.num_validation_pairs
    best = BestCheckpoint(checkpoints, workdir / BEST, config.best_metric, measured_on)

    def observe(step: int, num_steps: int, scalars: dict[str, float] | None) -> None:
        if profile:
            profile.after_step(step)
        after_step(step, num_steps, scalars)

    try:
        if first_step == 0:
            log.text(0, "configuration", f"```json\n{json.dumps(to_plain(config), indent=2)}\n```")
            log_views(log, model, batches(BatchShare()), config)
        loop(Record(log, pending, best), after_step=observe).run()
    except NonFiniteError as error:
        batch = next(iter(batches(BatchShare(), error.step - 1)))
        items = corpus.items_of("train")
        item_ids = [items[row].id for row in batch["item"].numpy()]
        folder = workdir / NONFINITE / f"step-{error.step}"
        state = Checkpoints(folder / CHECKPOINTS, checkpoint_groups(model), keep=1)
        sentence = write_nonfinite_report(folder, error, state, item_ids)
        gather_over_workers(strategy, 0)
        raise ClmrError(sentence) from error
    finally:
        if profile:
            profile.close()
        log.close()


def measurements_of(
    model: ContrastiveModel, corpus: Corpus, config: TrainConfig, log: RunLog | None
) -> list[Measurement]:
    """What the configuration wants to be measured during the run; without a log, nothing will be."""
    found = []

    def show(progressed: Callable[[], None]) -> dict[str, float]:
        if log:
            log_embeddings(log, model.encoder, corpus, progressed)
        return {}

    validate = build_validation(model, corpus, config) if config.validate_every else None
    if validate:
        found.append(Measurement(config.validate_every, validate))
    if config.probe_every_epochs:
        epoch = num_units(corpus, "train", config.sampling_unit) // config.batch_size
        found.append(Measurement(config.probe_every_epochs * epoch, build_probe(model.encoder, corpus)))
    if config.embeddings_every:
        found.append(Measurement(config.embeddings_every, show))
    return found
