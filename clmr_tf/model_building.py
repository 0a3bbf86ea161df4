"""The model of a run, and what of it a checkpoint holds."""

import dataclasses

import tensorflow as tf

from clmr_tf.augment import AugmentationChain
from clmr_tf.augmentation_changes import augmentation_config
from clmr_tf.checkpoint import named_variables
from clmr_tf.config import TrainConfig
from clmr_tf.contrastive import ContrastiveModel
from clmr_tf.learning_rates import default_learning_rate, learning_rate_schedule
from clmr_tf.loss_scale import LossScale
from clmr_tf.models.classifier import build_classifier
from clmr_tf.models.projector import build_projector
from clmr_tf.models.sample_cnn import SampleCNN, dtype_policy
from clmr_tf.optimizers import build_optimizer
from clmr_tf.supervised import SupervisedModel
from clmr_tf.trained_model import TrainedModel
from clmr_tf.weight_update import WeightUpdate


@dataclasses.dataclass(frozen=True)
class TagsToLearn:
    """What an objective with labels tells apart.

    Attributes:
        num_tags: Length of a multi-hot vector.
        single_label: Every clip has exactly one tag.
    """

    num_tags: int
    single_label: bool


def build_model(config: TrainConfig, tags: TagsToLearn | None = None) -> TrainedModel:
    """The model that a configuration describes: built, with its optimizer, ready to train or to restore.

    To be called inside the scope of the strategy; with lengths in steps, see `resolve_lengths`.

    Args:
        config: The run.
        tags: For the objectives with labels.
    """
    config = config.resolved()
    augmentations = augmentation_config(config.augmentation, config.augmentation_changes)
    chain = AugmentationChain(augmentations, sample_rate_hz=config.sample_rate_hz)
    with dtype_policy(config.precision):
        encoder = SampleCNN(width=config.width, sample_rate_hz=config.sample_rate_hz, seed=config.seed)
        shared = {"jit_views": config.jit, "num_micro_batches": config.micro_batches}
        model: TrainedModel
        if tags is None:
            projector = build_projector(seed=config.seed)
            model = ContrastiveModel(
                encoder, projector, chain, config.temperature, two_passes=config.two_passes, **shared
            )
        else:
            classifier = build_classifier(tags.num_tags, seed=config.seed)
            model = SupervisedModel(
                encoder, classifier, chain, single_label=tags.single_label, dropout=config.dropout, **shared
            )
        model.build()
    peak = config.learning_rate or default_learning_rate(config.optimizer, config.batch_size, config.lars_scaling)
    learning_rate = learning_rate_schedule(
        config.schedule, peak, warmup_steps=config.warmup_steps, decay_steps=config.decay_steps or config.steps
    )
    optimizer = build_optimizer(config.optimizer, learning_rate, weight_decay=config.weight_decay)
    optimizer.build(model.trainable_variables)
    model.compile(
        WeightUpdate(
            optimizer,
            model.trainable_variables,
            clip_norm=config.clip_norm,
            ema_momentum=config.ema_momentum,
            skips_nonfinite=config.on_nonfinite == "skip",
            loss_scale=LossScale() if config.precision == "mixed_float16" else None,
        )
    )
    return model


def checkpoint_groups(model: TrainedModel) -> dict[str, dict[str, tf.Variable]]:
    """Everything that a run changes, by the names that checkpoints use."""
    update = model.weight_update
    groups = {name: named_variables(part.variables) for name, part in model.parts.items()}
    # The names of an optimizer's variables hold numbers that Keras counts up within a process.
    groups["optimizer"] = {str(index): variable.value for index, variable in enumerate(update.optimizer.variables)}
    groups["update"] = update.variables
    if update.averages:
        average_of = {id(weight): average for weight, average in zip(update.weights, update.averages, strict=True)}
        for name, part in model.parts.items():
            averages = [average_of[id(weight)] for weight in part.trainable_variables]
            groups[f"{name}_average"] = dict(zip(named_variables(part.trainable_variables), averages, strict=True))
    return groups
