"""The steps of a run that is set up: what its chief writes, and what the workers beside it do."""

import dataclasses
import json
import logging
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from clmr_tf.checkpoint import Checkpoints
from clmr_tf.clips import BatchShare, pair_dataset
from clmr_tf.command_line import to_plain
from clmr_tf.config import TrainConfig
from clmr_tf.corpus import Corpus
from clmr_tf.distribution import describe_devices, gather_over_workers
from clmr_tf.errors import ClmrError
from clmr_tf.labelled_clips import labelled_dataset
from clmr_tf.linear_probe import INVERSE_PENALTIES
from clmr_tf.loop.best_checkpoint import BestCheckpoint
from clmr_tf.loop.convergence import Convergence
from clmr_tf.loop.execution import distributed
from clmr_tf.loop.failures import NonFiniteError, write_nonfinite_report
from clmr_tf.loop.labelled_validation import build_labelled_validation
from clmr_tf.loop.measurement import Measurement, Record
from clmr_tf.loop.pending_row import PendingRow
from clmr_tf.loop.profile import StepProfile
from clmr_tf.loop.skipped_steps import SkippedSteps
from clmr_tf.loop.steps import AfterStep, TrainingLoop
from clmr_tf.loop.validation import build_validation
from clmr_tf.model_building import checkpoint_groups
from clmr_tf.probing import build_probe
from clmr_tf.run_examples import log_embeddings, log_views
from clmr_tf.run_folder import BEST, CHECKPOINTS, METRICS_FILE, NONFINITE, TENSORBOARD, record_start
from clmr_tf.run_log import RunLog
from clmr_tf.run_settings import steps_of_epochs
from clmr_tf.trained_model import TrainedModel
from clmr_tf.training_music import TrainingMusic

logger = logging.getLogger(__name__)

# Some minutes of one core.
_MANY_WINDOWS_FITTED = 2_000_000


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
        pending: The row of a step that is saved and not logged yet.
        first_step: Steps done before.
    """

    config: TrainConfig
    lengths: TrainConfig
    strategy: tf.distribute.Strategy
    music: TrainingMusic
    model: TrainedModel
    checkpoints: Checkpoints
    pending: PendingRow
    first_step: int

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
            _warn_of_long_probe(self.music.labelled, model.encoder.clip_num_samples)
            every = steps_of_epochs(config.probe_every_epochs, config, self.music.learned)
            found.append(Measurement(every, build_probe(model.encoder, self.music.labelled)))
        if config.embeddings_every:
            found.append(Measurement(config.embeddings_every, show))
        return found


def _warn_of_long_probe(corpus: Corpus, clip_num_samples: int) -> None:
    num_windows = sum(item.num_samples // clip_num_samples for item in corpus.items_of("train"))
    num_fits = len(INVERSE_PENALTIES) * len(corpus.manifest.tag_names)
    if num_windows * num_fits > _MANY_WINDOWS_FITTED:
        logger.warning(
            "--probe-every-epochs fits %d logistic regressions on %s windows each time, which takes an hour or more; "
            "--validate-every is quicker, and `python -m clmr_tf.probe` scores the finished model.",
            num_fits,
            f"{num_windows:,}",
        )


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
        first_step - 1 if first_step == 0 or run.pending.read(first_step) is not None else first_step,
        tolerates_failed_writes=config.on_failed_save == "continue",
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
            Record(log, run.pending, best),
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
