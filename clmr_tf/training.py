"""The training of a run from beginning to end; `clmr_tf.train` is its command."""

import dataclasses
import logging
from pathlib import Path

import tensorflow as tf

from clmr_tf.checkpoint import Checkpoints
from clmr_tf.config import TrainConfig
from clmr_tf.corpus_resolution import is_prepared, resolve_corpus
from clmr_tf.distribution import build_strategy, gather_over_workers, num_workers, worker_index
from clmr_tf.errors import UsageError
from clmr_tf.hardware import devices_in_words, unusable_gpu
from clmr_tf.loop.pending_row import PendingRow
from clmr_tf.loop.skipped_steps import require_trained
from clmr_tf.loop.steps import AfterStep
from clmr_tf.loop.watchdog import watched_workers
from clmr_tf.model_building import build_model, checkpoint_groups
from clmr_tf.models.sample_cnn import CLIP_NUM_SAMPLES
from clmr_tf.pretrained import start_from_pretrained
from clmr_tf.run_folder import CHECKPOINTS, PENDING_FILE, opened_run_folder
from clmr_tf.run_settings import require_equal_shares, require_same_run, resolve_lengths, resolve_places
from clmr_tf.training_music import training_music
from clmr_tf.training_run import Run, run_as_chief, run_beside_chief
from clmr_tf.xla_start import start_xla_quietly

logger = logging.getLogger(__name__)


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
        after_step: Called after every execution of steps, see `loop.steps`.

    Raises:
        UsageError: If the configuration, the devices, the workdir and the corpus do not fit together.
        StoppedBySignalError: After SIGTERM or Ctrl-C, once everything is saved.
        ClmrError: If the training cannot go on; the newest checkpoint is as it was. Also at the end of a run that has
            skipped more than half of its steps because they were not finite.
    """
    strategy = build_strategy(config.strategy, config.num_replicas, config.worker_timeout_seconds)
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
        music = training_music(corpus, config)
        require_same_run(strategy, config, music.learned)
        lengths = resolve_lengths(config, music.learned)
        with strategy.scope():
            model = build_model(lengths, music.tags)
        checkpoints = Checkpoints(
            config.workdir / CHECKPOINTS, checkpoint_groups(model), config.keep_checkpoints, writes=is_chief
        )
        first_step = checkpoints.restore()
        pending = PendingRow(config.workdir / PENDING_FILE)
        # Looked at before all have come, since the chief drops it soon after, and the chief's answer counts.
        answer = 2 * first_step + (pending.read(first_step) is not None)
        answers = gather_over_workers(strategy, answer)
        if {each // 2 for each in answers} != {first_step}:
            raise UsageError(
                f"Workers resume from different steps, this one from {first_step}; give all the same --workdir, "
                "on a folder that they share."
            )
        if first_step == 0 and config.pretrained:
            start_from_pretrained(model.encoder, config.pretrained)
            model.weight_update.begin_averages()
        has_pending_row = answers[0] % 2 == 1
        num_skipped = model.weight_update.num_skipped
        if first_step >= lengths.steps and not has_pending_row:
            require_trained(config.workdir, first_step, int(num_skipped.numpy()))
            return Outcome(config.workdir, first_step, first_step)
        _tell_devices(strategy)
        run = Run(config, lengths, strategy, music, model, checkpoints, pending, first_step)
        num_steps = (run_as_chief if is_chief else run_beside_chief)(run, progressed, after_step)
        require_trained(config.workdir, num_steps, int(num_skipped.numpy()))
        return Outcome(config.workdir, num_steps, first_step, ended_early=num_steps < lengths.steps)


def _tell_devices(strategy: tf.distribute.Strategy) -> None:
    logger.info("Training on %s.", devices_in_words(strategy))
    if without_gpu := unusable_gpu():
        logger.warning("%s", without_gpu)
