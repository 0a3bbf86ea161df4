"""A training from start to end; its command is `clmr_tf.train`."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from clmr_tf.config.command_line import to_json
from clmr_tf.config.train import TrainConfig
from clmr_tf.data.corpus import Corpus
from clmr_tf.data.crops import BatchShard, labelled_dataset, num_units, pair_dataset
from clmr_tf.data.labels import choose_labels, has_single_labels, require_labels, task_metadata
from clmr_tf.data.resolution import is_pipeline, is_prepared, resolve_corpus
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.hardware import unusable_gpu
from clmr_tf.models.clip_encoder import CLIP_NUM_SAMPLES
from clmr_tf.quiet_start import start_xla_quietly
from clmr_tf.train.build import LabelSpec, RunPlan, build_model, checkpoint_groups, plan_of, steps_of_epochs
from clmr_tf.train.callbacks import (
    Callback,
    KeepBestCheckpoint,
    Measure,
    Progress,
    ReduceLearningRateOnPlateau,
    SaveCheckpoints,
    StopEarly,
    WarnOfSkippedSteps,
    WriteLog,
)
from clmr_tf.train.checkpoints import Checkpoints
from clmr_tf.train.distribution import (
    build_strategy,
    describe_devices,
    devices_in_words,
    gather_over_workers,
    num_workers,
    worker_index,
    workers_watchdog,
)
from clmr_tf.train.failures import NonFiniteError, require_trained, write_nonfinite_report
from clmr_tf.train.logs import RunLog, log_embeddings, log_views, logged_steps
from clmr_tf.train.loop import TrainingLoop, distributed
from clmr_tf.train.run_folder import (
    BEST,
    CHECKPOINTS,
    METRICS_FILE,
    NONFINITE,
    TENSORBOARD,
    opened_run_folder,
    record_start,
)
from clmr_tf.train.step import TrainingModel
from clmr_tf.train.validation import build_labelled_validation, build_validation

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        workdir: Folder of the run.
        num_steps: Steps done.
        first_step: Steps done before this start.
        ended_early: Whether --early-stopping ended it.
    """

    workdir: Path
    num_steps: int
    first_step: int
    ended_early: bool = False


def train(config: TrainConfig, report: Callable[[Progress], None] = lambda _: None) -> Outcome:
    """Trains until `config.steps` or `config.epochs` are done, starting at the newest checkpoint of the workdir if any.

    The order is: find the devices, check and lock the workdir, open or prepare the corpus, build the model, restore the
    newest checkpoint, and read the data from the next step on.

    Args:
        config: The run.
        report: Called after every execution of steps.

    Raises:
        UsageError: If the configuration, the devices, the workdir and the corpus do not fit together.
        StoppedBySignalError: After SIGTERM or Ctrl-C, once everything is saved.
        ClmrError: If the training cannot continue; the newest checkpoint is unchanged. Also at the end of a run that
            has skipped more than half of its steps because they were not finite.
    """
    config = resolve_paths(config)
    strategy = build_strategy(
        config.strategy,
        config.num_replicas,
        shared_folder=config.workdir,
        timeout_seconds=config.worker_timeout_seconds,
    )
    start_xla_quietly()
    _require_equal_parts(config, strategy.num_replicas_in_sync)
    is_chief = worker_index(strategy) == 0
    if num_workers(strategy) > 1 and not is_prepared(Path(config.corpus)):
        raise UsageError(
            f"Several workers need a prepared corpus, or each would prepare {config.corpus}; prepare it with "
            "`python -m pipelines.folder MUSIC --out FOLDER`, and give --corpus FOLDER."
        )
    with (
        workers_watchdog(strategy, config.worker_timeout_seconds) as heartbeat,
        opened_run_folder(config.workdir, config, writes=is_chief),
    ):
        corpus = resolve_corpus(
            config.corpus,
            corpora=config.corpora,
            sample_rate_hz=config.sample_rate_hz,
            clip_num_samples=CLIP_NUM_SAMPLES[config.sample_rate_hz],
            reader=config.reader,
            max_skipped_fraction=config.max_skipped_fraction,
        )
        data = training_data(corpus, config)
        _require_same_run(strategy, config, data.corpus)
        plan = plan_of(config, data.num_examples)
        with strategy.scope():
            model = build_model(config, plan, data.label_spec)
        checkpoints = Checkpoints(
            config.workdir / CHECKPOINTS, checkpoint_groups(model), config.keep_checkpoints, writes=is_chief
        )
        first_step, unlogged = _restore(strategy, config.workdir, checkpoints)
        if first_step == 0 and config.pretrained:
            from clmr_tf.inference.tensorflow_encoder import start_from_pretrained

            start_from_pretrained(model.encoder, config.pretrained)
            model.weight_update.reset_averages()
        num_steps = first_step
        if first_step < plan.num_steps or unlogged is not None:
            run = _Run(
                config=config,
                plan=plan,
                strategy=strategy,
                data=data,
                model=model,
                checkpoints=checkpoints,
                first_step=first_step,
                unlogged=unlogged,
                heartbeat=heartbeat,
                report=report,
            )
            logger.info("Training on %s.", devices_in_words(strategy))
            if gpu_warning := unusable_gpu():
                logger.warning("%s", gpu_warning)
            num_steps = run.train_as_chief() if is_chief else run.train_as_worker()
        require_trained(config.workdir, num_steps, int(model.weight_update.num_skipped.numpy()))
        return Outcome(config.workdir, num_steps, first_step, ended_early=num_steps < plan.num_steps)


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The data that a run is trained and measured on.

    Attributes:
        corpus: Train split for training, valid split for validation.
        labelled: The corpus with all labels of the task, for probes.
        num_examples: Songs or clips of an epoch.
        label_spec: What an objective with labels predicts.
        label_record: The task, its tags, and which labels may be used (`choose_labels`), as JSON data for run.json.
    """

    corpus: Corpus
    labelled: Corpus
    num_examples: int
    label_spec: LabelSpec | None = None
    label_record: dict[str, Any] | None = None


def training_data(corpus: Corpus, config: TrainConfig) -> TrainingData:
    """Selects the music and the labels of a run.

    An objective without labels trains on the whole train split, regardless of the task. One with labels trains on the
    clips whose labels it may use: those that `python -m clmr_tf.probe` uses for the same fraction and seed, so that a
    head on frozen features and a network trained from scratch have the same labels.

    Raises:
        UsageError: If there is no such task, or no label, or if the best metric is not available for such labels.
    """
    labelled = corpus if config.task is None else corpus.for_task(config.task)
    if not config.has_labels:
        return TrainingData(corpus, labelled, num_units(corpus, "train", config.sampling_unit))
    require_labels(labelled, ("train", "valid"))
    train_rows, tag_names = labelled.rows_of("train"), labelled.manifest.tag_names
    chosen, selection = choose_labels(
        labelled,
        np.arange(len(train_rows)),
        song_fraction=config.labels,
        combination_fraction=config.labels_like_paper,
        seed=config.seed,
    )
    is_kept = np.ones(len(labelled.index_rows), bool)
    is_kept[np.delete(train_rows, chosen)] = False
    selected = labelled.select(is_kept)
    label_spec = LabelSpec(len(tag_names), has_single_labels(labelled))
    _require_measurable(config.best_metric, label_spec)
    record = {
        **task_metadata(labelled),
        "tag_names": list(tag_names),
        "single_label": label_spec.single_label,
        "selection": selection,
    }
    return TrainingData(selected, labelled, num_units(selected, "train", config.sampling_unit), label_spec, record)


def _require_measurable(best_metric: str, label_spec: LabelSpec) -> None:
    measured, other = "validation_accuracy", "validation_average_precision"
    if not label_spec.single_label:
        measured, other = other, measured
    if best_metric == other:
        kind = "one tag each" if label_spec.single_label else "several tags"
        raise UsageError(f"The clips have {kind}, for which --best-metric {other} is not measured; use {measured}.")


def resolve_paths(config: TrainConfig) -> TrainConfig:
    """The configuration with its defaults filled in, and with absolute paths for everything that it reads."""
    config = config.resolved()
    folder = Path(config.corpus).expanduser()
    # A name of a corpus stays a name.
    corpus = str(folder.resolve()) if folder.is_dir() and not is_pipeline(config.corpus) else config.corpus
    name = re.sub(r"[^\w.-]+", "-", folder.resolve().name).strip("-") or "music"
    workdir = (config.workdir or Path("runs") / name).expanduser()
    pretrained = config.pretrained and config.pretrained.expanduser().resolve()
    corpora = config.corpora.expanduser()
    return dataclasses.replace(config, corpus=corpus, workdir=workdir, corpora=corpora, pretrained=pretrained)


def _require_equal_parts(config: TrainConfig, num_replicas: int) -> None:
    num_parts = num_replicas * config.micro_batches
    if config.batch_size % num_parts:
        raise UsageError(
            f"--batch-size must be a multiple of {num_parts}, for {num_replicas} devices and {config.micro_batches} "
            f"micro-batches; received {config.batch_size}."
        )


def _require_same_run(strategy: tf.distribute.Strategy, config: TrainConfig, corpus: Corpus) -> None:
    """Raises UsageError if the workers have different settings.

    Otherwise they would train different models, or wait for each other forever.
    """
    places = {"workdir", "corpus", "corpora", "pretrained"}
    settings = {name: value for name, value in to_json(config).items() if name not in places}
    text = json.dumps([settings, corpus.manifest.fingerprint], sort_keys=True)
    digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
    if set(gather_over_workers(strategy, digest)) != {digest}:
        raise UsageError("The workers have different settings or corpora; give all of them the same command.")


def _restore(
    strategy: tf.distribute.Strategy, workdir: Path, checkpoints: Checkpoints
) -> tuple[int, dict[str, float] | None]:
    """Restores the newest checkpoint.

    Returns:
        Its step, 0 if there is none, and the metrics of that step if it has no row in the log yet; empty on workers
        other than the chief.
    """
    first_step = checkpoints.restore()
    is_unlogged = (
        first_step not in logged_steps(workdir / METRICS_FILE) and checkpoints.metrics_of(first_step) is not None
    )
    # The chief may already have logged the row when another worker looks, so its answer is used.
    answers = gather_over_workers(strategy, 2 * first_step + is_unlogged)
    if {answer // 2 for answer in answers} != {first_step}:
        raise UsageError(
            f"Workers resume from different steps, this one from {first_step}; give all the same --workdir, "
            "on a folder that they share."
        )
    if answers[0] % 2 == 0:
        return first_step, None
    return first_step, checkpoints.metrics_of(first_step) if worker_index(strategy) == 0 else {}


@dataclasses.dataclass(frozen=True)
class _Run:
    """Everything that is determined before the first step; see `train`."""

    config: TrainConfig
    plan: RunPlan
    strategy: tf.distribute.Strategy
    data: TrainingData
    model: TrainingModel
    checkpoints: Checkpoints
    first_step: int
    unlogged: dict[str, float] | None
    heartbeat: Callable[[], None]
    report: Callable[[Progress], None]

    def train_as_worker(self) -> int:
        """Trains together with the chief, and writes nothing."""
        dataset = self._dataset()
        try:
            return self._loop(dataset, *self._callbacks(log=None))
        except NonFiniteError:
            # Let the chief write a report first.
            gather_over_workers(self.strategy, 0)
            raise

    def train_as_chief(self) -> int:
        """Trains, and writes logs and checkpoints."""
        config, workdir, first_step = self.config, self.config.workdir, self.first_step
        # This comes before anything is written, since the corpus may have too little music for a batch.
        dataset = self._dataset()
        record_start(
            workdir, config, self.data.corpus, first_step, describe_devices(self.strategy), self.data.label_record
        )
        # Entries that will be written again are removed: all of them without a checkpoint, and those of the last step
        # if its row is missing.
        last_kept_step = first_step - 1 if first_step == 0 or self.unlogged is not None else first_step
        log = RunLog(
            workdir / METRICS_FILE,
            workdir / TENSORBOARD,
            last_kept_step,
            explained=self.checkpoints.explained_failure,
        )
        with contextlib.closing(log):
            if first_step == 0:
                log.text(0, "configuration", f"```json\n{json.dumps(to_json(config), indent=2)}\n```")
                log_views(log, self.model, self._batches(BatchShard(), first_step), config)
            try:
                return self._loop(dataset, *self._callbacks(log))
            except NonFiniteError as error:
                sentence = self._write_nonfinite_report(error)
                gather_over_workers(self.strategy, 0)
                raise ClmrError(sentence) from error

    def _loop(self, dataset: tf.data.Dataset, saver: SaveCheckpoints, callbacks: list[Callback]) -> int:
        loop = TrainingLoop(
            self.model,
            self.strategy,
            dataset,
            self.config,
            self.plan.num_steps,
            saver,
            callbacks,
            heartbeat=self.heartbeat,
            report=self.report,
        )
        try:
            return loop.run(self.unlogged)
        finally:
            for callback in callbacks:
                callback.close()

    def _callbacks(self, log: RunLog | None) -> tuple[SaveCheckpoints, list[Callback]]:
        """The saver, and all callbacks in order; without a log, those of a worker that writes nothing."""
        config, first_step, strategy = self.config, self.first_step, self.strategy
        saver = SaveCheckpoints(config.checkpoint_every, self.checkpoints, self.model, strategy, first_step, log)
        callbacks: list[Callback] = [saver, *self._measurements(log)]
        best_folder = config.workdir / BEST if log else None
        callbacks.append(KeepBestCheckpoint(saver, best_folder, config.best_metric, self._measured_on()))
        callbacks.append(WriteLog(config.log_every, log, saver))
        earlier_rows = log.earlier_rows if log else []
        if config.schedule == "plateau":
            peak, optimizer = self.plan.peak_learning_rate, self.model.optimizer
            patience = config.plateau_patience
            callbacks.append(ReduceLearningRateOnPlateau(patience, peak, optimizer, strategy, earlier_rows))
        if config.early_stopping:
            callbacks.append(StopEarly(config.early_stopping, strategy, earlier_rows))
        if log:
            callbacks.append(WarnOfSkippedSteps(first_step, int(self.model.weight_update.num_skipped.numpy())))
        return saver, callbacks

    def _dataset(self) -> tf.data.Dataset:
        """The batches of this process; UsageError if there is too little music for one."""
        return distributed(
            self.strategy, lambda shard: self._batches(shard, self.first_step), self.config.micro_batches
        )

    def _batches(self, shard: BatchShard, first_step: int) -> tf.data.Dataset:
        config = self.config
        build: Callable[..., tf.data.Dataset] = labelled_dataset
        if not config.has_labels:
            seconds = config.max_crop_distance_seconds
            max_distance_samples = None if seconds is None else round(seconds * config.sample_rate_hz)
            build = functools.partial(pair_dataset, max_distance_samples=max_distance_samples)
        return build(
            self.data.corpus,
            "train",
            batch_size=config.batch_size,
            clip_num_samples=self.model.encoder.clip_num_samples,
            seed=config.seed,
            first_step=first_step,
            sampling_unit=config.sampling_unit,
            shard=shard,
        )

    def _measurements(self, log: RunLog | None) -> list[Callback]:
        """Validation, probe and, on the chief, the embeddings in TensorBoard."""
        config, model, found = self.config, self.model, []

        def log_current_embeddings(check_signals: Callable[[], None]) -> dict[str, float]:
            if log:
                log_embeddings(log, model.encoder, self.data.corpus, check_signals)
            return {}

        build = build_labelled_validation if config.has_labels else build_validation
        if config.validate_every and (validate := build(model, self.data.corpus, config)):
            found.append((config.validate_every, validate))
        if config.probe_every_epochs:
            from clmr_tf.probe.during_training import build_probe

            every = steps_of_epochs(config.probe_every_epochs, config, self.data.num_examples)
            found.append((every, build_probe(model.encoder, self.data.labelled)))
        if config.embeddings_every:
            found.append((config.embeddings_every, log_current_embeddings))
        update = model.weight_update
        return [Measure(every, measure, update, self.strategy, self.heartbeat) for every, measure in found]

    def _measured_on(self) -> dict[str, object]:
        """What the values of the best metric depend on, apart from the weights."""
        weights = {"weights": "averages"} if self.config.ema_momentum else {}
        if self.config.best_metric == "probe_score":
            return {"corpus": self.data.labelled.manifest.fingerprint, **weights}
        fingerprint = self.data.corpus.manifest.fingerprint
        return {"corpus": fingerprint, "num_validation_pairs": self.config.num_validation_pairs, **weights}

    def _write_nonfinite_report(self, error: NonFiniteError) -> str:
        batch = next(iter(self._batches(BatchShard(), error.step - 1)))
        corpus = self.data.corpus
        item_ids = [item.id for item in corpus.read_items(corpus.rows_of("train")[batch["item"].numpy()])]
        folder = self.config.workdir / NONFINITE / f"step-{error.step}"
        state = Checkpoints(folder / CHECKPOINTS, checkpoint_groups(self.model), keep=1)
        return write_nonfinite_report(folder, error, state, item_ids)
