"""A training from beginning to end; `clmr_tf.train` is its command."""

import dataclasses
import hashlib
import json
import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from clmr_tf.config.command_line import to_plain
from clmr_tf.config.train import TrainConfig
from clmr_tf.data.corpus import Corpus
from clmr_tf.data.crops import BatchShare, labelled_dataset, num_units, pair_dataset
from clmr_tf.data.labels import choose_labels, has_single_labels, require_labels, task_metadata
from clmr_tf.data.resolution import is_pipeline, is_prepared, resolve_corpus
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.hardware import unusable_gpu
from clmr_tf.inference.encoder import start_from_pretrained
from clmr_tf.models.sample_cnn import CLIP_NUM_SAMPLES
from clmr_tf.probe.quick import build_probe
from clmr_tf.quiet_start import start_xla_quietly
from clmr_tf.train.build import TagsToLearn, build_model, checkpoint_groups, default_learning_rate
from clmr_tf.train.callbacks import (
    BestCheckpoint,
    Convergence,
    SkippedSteps,
    StepProfile,
    require_trained,
    watched_workers,
)
from clmr_tf.train.checkpoints import Checkpoints
from clmr_tf.train.distribution import (
    build_strategy,
    describe_devices,
    devices_in_words,
    gather_over_workers,
    num_workers,
    worker_index,
)
from clmr_tf.train.logs import RunLog, log_embeddings, log_views, logged_steps
from clmr_tf.train.loop import (
    AfterStep,
    Measurement,
    NonFiniteError,
    Record,
    TrainingLoop,
    distributed,
    write_nonfinite_report,
)
from clmr_tf.train.run_folder import (
    BEST,
    CHECKPOINTS,
    METRICS_FILE,
    NONFINITE,
    TENSORBOARD,
    opened_run_folder,
    record_start,
)
from clmr_tf.train.step import TrainedModel
from clmr_tf.train.validation import build_labelled_validation, build_validation

logger = logging.getLogger(__name__)


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
    require_labels(labelled, ("train", "valid"))
    items, tag_names = labelled.items_of("train"), labelled.manifest.tag_names
    rows, chosen = choose_labels(
        labelled,
        np.arange(len(items)),
        song_fraction=config.labels,
        combination_fraction=config.labels_like_paper,
        seed=config.seed,
    )
    kept = {items[row].id for row in rows}
    learned = dataclasses.replace(
        labelled, items=tuple(item for item in labelled.items if item.split != "train" or item.id in kept)
    )
    tags = TagsToLearn(len(tag_names), has_single_labels(labelled))
    _require_measurable(config.best_metric, tags)
    facts = {
        **task_metadata(labelled),
        "tag_names": list(tag_names),
        "single_label": tags.single_label,
        "chosen": chosen,
    }
    return TrainingMusic(learned, labelled, tags, facts)


def _require_measurable(best_metric: str, tags: TagsToLearn) -> None:
    measured, other = "validation_accuracy", "validation_average_precision"
    if not tags.single_label:
        measured, other = other, measured
    if best_metric == other:
        kind = "one tag each" if tags.single_label else "several tags"
        raise UsageError(f"The clips have {kind}, of which --best-metric {other} is not measured; use {measured}.")


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


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that is decided before the first step.

    Attributes:
        config: What the run was told, resolved.
        lengths: The same with all lengths in steps.
        strategy: The replicas.
        music: What it learns from and is measured on.
        model: Restored, or as it was initialised.
        checkpoints: The newest ones.
        first_step: Steps done before.
        unlogged: The metrics of that step, if it is saved and not logged yet.
    """

    config: TrainConfig
    lengths: TrainConfig
    strategy: tf.distribute.Strategy
    music: TrainingMusic
    model: TrainedModel
    checkpoints: Checkpoints
    first_step: int
    unlogged: dict[str, float] | None

    def batches(self, share: BatchShare, first_step: int | None = None) -> tf.data.Dataset:
        """A share of each batch, from the run's first step on or another."""
        config = self.config
        build = labelled_dataset if config.has_labels else pair_dataset
        return build(
            self.music.learned,
            "train",
            batch_size=config.batch_size,
            clip_num_samples=self.model.encoder.clip_num_samples,
            seed=config.seed,
            first_step=self.first_step if first_step is None else first_step,
            sampling_unit=config.sampling_unit,
            share=share,
        )

    def dataset(self) -> tf.data.Dataset:
        """The batches of this process; UsageError if there is too little music for one."""
        return distributed(self.strategy, self.batches, self.config.micro_batches)

    def loop(
        self, dataset: tf.data.Dataset, record: Record | None, convergence: Convergence, **arguments: Any
    ) -> TrainingLoop:
        """The loop over its steps."""
        return TrainingLoop(
            self.model,
            self.strategy,
            dataset,
            self.lengths,
            first_step=self.first_step,
            checkpoints=self.checkpoints,
            record=record,
            convergence=convergence,
            measurements=self._measurements(record.log if record else None),
            **arguments,
        )

    def _measurements(self, log: RunLog | None) -> list[Measurement]:
        """What the configuration wants to be measured on the way; without a log, nothing is shown."""
        config, model, found = self.lengths, self.model, []

        def show(progressed: Callable[[], None]) -> dict[str, float]:
            if log:
                log_embeddings(log, model.encoder, self.music.learned, progressed)
            return {}

        build = build_labelled_validation if config.has_labels else build_validation
        validate = build(model, self.music.learned, config) if config.validate_every else None
        if validate:
            found.append(Measurement(config.validate_every, validate))
        if config.probe_every_epochs:
            every = steps_of_epochs(config.probe_every_epochs, config, self.music.learned)
            found.append(Measurement(every, build_probe(model.encoder, self.music.labelled)))
        if config.embeddings_every:
            found.append(Measurement(config.embeddings_every, show))
        return found


def run_beside_chief(run: Run, progressed: Callable[[], None], _after_step: AfterStep) -> int:
    """Does the steps on a worker that is not the chief; see `TrainingLoop.run`."""
    try:
        return run.loop(run.dataset(), None, Convergence(run.lengths), progressed=progressed).run()
    except NonFiniteError:
        # The chief writes a report first.
        gather_over_workers(run.strategy, 0)
        raise


def run_as_chief(run: Run, progressed: Callable[[], None], after_step: AfterStep) -> int:
    """Does the steps and writes what they leave; see `TrainingLoop.run`.

    Raises:
        ClmrError: Also with the report of a step that was not finite.
    """
    config, workdir, first_step = run.config, run.config.workdir, run.first_step
    # Before anything is written, since it may be refused.
    dataset = run.dataset()
    devices = describe_devices(run.strategy)
    record_start(workdir, config, run.music.learned, first_step, devices, run.music.labels)
    log = RunLog(
        workdir / METRICS_FILE,
        workdir / TENSORBOARD,
        # What is logged before the first step, and a row that is still to be completed, is logged again.
        first_step - 1 if first_step == 0 or run.unlogged is not None else first_step,
        explained=run.checkpoints.explained_failure,
    )
    best = BestCheckpoint(run.checkpoints, workdir / BEST, config.best_metric, _measured_on(run))
    profile = StepProfile(workdir / TENSORBOARD, first_step) if config.profile else None

    skipped = SkippedSteps(first_step, int(run.model.weight_update.num_skipped.numpy()))

    def observe(step: int, num_steps: int, scalars: dict[str, float] | None) -> None:
        if profile:
            profile.after_step(step)
        if scalars:
            skipped.observe(step, int(scalars["num_skipped"]))
        after_step(step, num_steps, scalars)

    try:
        if first_step == 0:
            log.text(0, "configuration", f"```json\n{json.dumps(to_plain(config), indent=2)}\n```")
            log_views(log, run.model, run.batches(BatchShare()), config)
        return run.loop(
            dataset,
            Record(log, best, run.unlogged),
            Convergence(run.lengths, log.earlier_rows),
            boundaries=profile.boundaries if profile else (),
            progressed=progressed,
            after_step=observe,
        ).run()
    except NonFiniteError as error:
        batch = next(iter(run.batches(BatchShare(), error.step - 1)))
        items = run.music.learned.items_of("train")
        item_ids = [items[row].id for row in batch["item"].numpy()]
        folder = workdir / NONFINITE / f"step-{error.step}"
        state = Checkpoints(folder / CHECKPOINTS, checkpoint_groups(run.model), keep=1)
        sentence = write_nonfinite_report(folder, error, state, item_ids)
        gather_over_workers(run.strategy, 0)
        raise ClmrError(sentence) from error
    finally:
        if profile:
            profile.close()
        log.close()


def _measured_on(run: Run) -> dict[str, object]:
    """What the values of the best metric depend on, beside the weights."""
    weights = {"weights": "averages"} if run.config.ema_momentum else {}
    if run.config.best_metric == "probe_score":
        return {"corpus": run.music.labelled.manifest.fingerprint, **weights}
    fingerprint = run.music.learned.manifest.fingerprint
    return {"corpus": fingerprint, "num_validation_pairs": run.config.num_validation_pairs, **weights}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a start of a run came to.

    Attributes:
        workdir: Folder of the run.
        num_steps: Steps that it has now.
        first_step: Steps that it had before.
        ended_early: Whether its validation loss had not fallen for as long as --early-stopping bears.
    """

    workdir: Path
    num_steps: int
    first_step: int
    ended_early: bool = False


def train(config: TrainConfig, after_step: AfterStep = lambda *_: None) -> Outcome:
    """Trains until `config.steps` or `config.epochs` are done, from the newest checkpoint of the workdir if any.

    In this order: the devices are found, the workdir is checked and locked, the corpus is opened or prepared, the
    model is built, the newest checkpoint is restored, and the data begin at the step after it.

    Args:
        config: The run.
        after_step: Called after every execution of steps, see `loop.AfterStep`.

    Raises:
        UsageError: If the configuration, the devices, the workdir and the corpus do not fit together.
        StoppedBySignalError: After SIGTERM or Ctrl-C, once everything is saved.
        ClmrError: If the training cannot go on; the newest checkpoint is as it was. Also at the end of a run that has
            skipped more than half of its steps because they were not finite.
    """
    config = resolve_places(config)
    strategy = build_strategy(
        config.strategy,
        config.num_replicas,
        meeting_folder=config.workdir,
        timeout_seconds=config.worker_timeout_seconds,
    )
    start_xla_quietly()
    require_equal_shares(config, strategy.num_replicas_in_sync)
    is_chief = worker_index(strategy) == 0
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
        music = training_music(corpus, config)
        require_same_run(strategy, config, music.learned)
        lengths = resolve_lengths(config, music.learned)
        with strategy.scope():
            model = build_model(lengths, music.tags)
        checkpoints = Checkpoints(
            config.workdir / CHECKPOINTS, checkpoint_groups(model), config.keep_checkpoints, writes=is_chief
        )
        first_step = checkpoints.restore()
        unlogged = (
            checkpoints.metrics_of(first_step)
            if first_step not in logged_steps(config.workdir / METRICS_FILE)
            else None
        )
        # The chief's answer counts, which by the time that another looks may have logged the row.
        answer = 2 * first_step + (unlogged is not None)
        answers = gather_over_workers(strategy, answer)
        if {each // 2 for each in answers} != {first_step}:
            raise UsageError(
                f"Workers resume from different steps, this one from {first_step}; give all the same --workdir, "
                "on a folder that they share."
            )
        if first_step == 0 and config.pretrained:
            start_from_pretrained(model.encoder, config.pretrained)
            model.weight_update.begin_averages()
        is_unlogged = answers[0] % 2 == 1
        num_skipped = model.weight_update.num_skipped
        if first_step >= lengths.steps and not is_unlogged:
            require_trained(config.workdir, first_step, int(num_skipped.numpy()))
            return Outcome(config.workdir, first_step, first_step)
        _tell_devices(strategy)
        run = Run(config, lengths, strategy, music, model, checkpoints, first_step, unlogged)
        num_steps = (run_as_chief if is_chief else run_beside_chief)(run, progressed, after_step)
        require_trained(config.workdir, num_steps, int(num_skipped.numpy()))
        return Outcome(config.workdir, num_steps, first_step, ended_early=num_steps < lengths.steps)


def _tell_devices(strategy: tf.distribute.Strategy) -> None:
    logger.info("Training on %s.", devices_in_words(strategy))
    if without_gpu := unusable_gpu():
        logger.warning("%s", without_gpu)
