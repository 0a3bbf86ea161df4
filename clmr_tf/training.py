"""The training of a run from beginning to end; `clmr_tf.train` is its command."""

import dataclasses
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

from clmr_tf.augment import AugmentationChain
from clmr_tf.augmentation_changes import augmentation_config
from clmr_tf.checkpoint import Checkpoints, named_variables
from clmr_tf.clips import pair_dataset
from clmr_tf.command_line import to_plain
from clmr_tf.config import TrainConfig
from clmr_tf.contrastive import ContrastiveModel
from clmr_tf.corpus_resolution import is_pipeline, resolve_corpus
from clmr_tf.encoder import dtype_policy
from clmr_tf.models.projector import build_projector
from clmr_tf.models.sample_cnn import CLIP_NUM_SAMPLES, SampleCNN
from clmr_tf.optimizers import build_optimizer
from clmr_tf.run_examples import log_embeddings, log_views
from clmr_tf.run_folder import (
    CHECKPOINTS,
    METRICS_FILE,
    TENSORBOARD,
    opened_run_folder,
    record_start,
)
from clmr_tf.run_log import RunLog
from clmr_tf.training_loop import run_steps

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Where a run is and how many steps it had when it was started this time."""

    workdir: Path
    first_step: int


def train(config: TrainConfig, after_step: Callable[[int, dict[str, float] | None], None] = lambda *_: None) -> Outcome:
    """Trains until `config.steps` are done, from the newest checkpoint of the workdir if there is one.

    In this order: the workdir is checked and locked, the corpus is opened or prepared, the model is built,
    the newest checkpoint is restored, and the data begin at the step after it.

    Args:
        config: The run.
        after_step: Called after every step, see `training_loop.run_steps`.

    Raises:
        UsageError: If the configuration, the workdir and the corpus do not fit together.
        StoppedBySignalError: After SIGTERM or Ctrl-C, once everything is saved.
        ClmrError: If the training cannot go on; the newest checkpoint is as it was.
    """
    config = resolve_places(config)
    workdir = config.workdir
    clip_num_samples = CLIP_NUM_SAMPLES[config.sample_rate_hz]
    with opened_run_folder(workdir, config):
        corpus = resolve_corpus(
            config.corpus,
            corpora=config.corpora,
            sample_rate_hz=config.sample_rate_hz,
            clip_num_samples=clip_num_samples,
            reader=config.reader,
            max_skipped_share=config.max_skipped_share,
        )
        model = build_model(config)
        groups = {
            "encoder": named_variables(model.encoder.variables),
            "projector": named_variables(model.projector.variables),
            # The names of an optimizer's variables hold numbers that Keras counts up within a process.
            "optimizer": {str(index): variable.value for index, variable in enumerate(model.optimizer.variables)},
        }
        checkpoints = Checkpoints(workdir / CHECKPOINTS, groups, config.keep_checkpoints)
        first_step = checkpoints.restore()
        if first_step >= config.steps:
            return Outcome(workdir, first_step)
        dataset = pair_dataset(
            corpus,
            "train",
            batch_size=config.batch_size,
            clip_num_samples=clip_num_samples,
            seed=config.seed,
            first_step=first_step,
            sampling_unit=config.sampling_unit,
        )
        record_start(workdir, config, corpus, first_step)
        log = RunLog(workdir / METRICS_FILE, workdir / TENSORBOARD, first_step)
        try:
            if first_step == 0:
                log.text(0, "configuration", f"```json\n{json.dumps(to_plain(config), indent=2)}\n```")
                log_views(log, model, dataset, config)

            def observe(step: int, scalars: dict[str, float] | None) -> None:
                every = config.embeddings_every
                if every and (step % every == 0 or step == config.steps):
                    log_embeddings(log, model.encoder, corpus)
                after_step(step, scalars)

            run_steps(
                model, dataset, config, first_step=first_step, checkpoints=checkpoints, log=log, after_step=observe
            )
        finally:
            log.close()
    return Outcome(workdir, first_step)


def resolve_places(config: TrainConfig) -> TrainConfig:
    """The configuration with the places that it leaves open or that depend on where the command was started."""
    folder = Path(config.corpus).expanduser()
    # A name stays a name, so that the configuration means the same elsewhere.
    corpus = str(folder.resolve()) if folder.is_dir() and not is_pipeline(config.corpus) else config.corpus
    name = re.sub(r"[^\w.-]+", "-", folder.resolve().name).strip("-") or "music"
    workdir = (config.workdir or Path("runs") / name).expanduser()
    return dataclasses.replace(config, corpus=corpus, workdir=workdir, corpora=config.corpora.expanduser())


def build_model(config: TrainConfig) -> ContrastiveModel:
    """The model that a configuration describes: built, with its optimizer, ready to train or to restore."""
    augmentations = augmentation_config(config.augmentation, config.augmentation_changes)
    chain = AugmentationChain(augmentations, sample_rate_hz=config.sample_rate_hz)
    optimizer = build_optimizer(config.optimizer, config.learning_rate)
    with dtype_policy(config.precision):
        model = ContrastiveModel(
            SampleCNN(width=config.width, sample_rate_hz=config.sample_rate_hz, seed=config.seed),
            build_projector(seed=config.seed),
            chain,
            config.temperature,
            jit_views=config.jit,
        )
        model.build()
    optimizer.build(model.trainable_variables)
    model.compile(optimizer=optimizer, jit_compile=False)
    return model
