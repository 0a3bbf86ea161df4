"""Builds the model of a run with its optimizer and plan, and lists the variables that a checkpoint contains."""

import dataclasses
import math

import tensorflow as tf
from keras.optimizers.schedules import CosineDecay, LearningRateSchedule

from clmr_tf.augment import AugmentationChain
from clmr_tf.config.augmentation import augmentation_config
from clmr_tf.config.train import TrainConfig
from clmr_tf.errors import UsageError
from clmr_tf.models.clip_encoder import dtype_policy
from clmr_tf.models.encoders import encoder_class
from clmr_tf.models.projector import build_classifier, build_projector
from clmr_tf.train.checkpoints import named_variables
from clmr_tf.train.optimizers import build_optimizer
from clmr_tf.train.step import ContrastiveModel, LossScale, SupervisedModel, TrainingModel, WeightUpdate


def default_learning_rate(optimizer: str, batch_size: int) -> float:
    """The learning rate of a run that does not set one.

    Args:
        optimizer: "lars" has 0.075 √batch_size, as in the thesis and in SimCLR (Chen et al. 2020, appendix B.1); all
            others have 3e-4, that of Adam in the released code.
        batch_size: Pairs per step.
    """
    return 0.075 * math.sqrt(batch_size) if optimizer == "lars" else 3e-4


def learning_rate_schedule(
    schedule: str, peak: float, *, warmup_steps: int, decay_steps: int
) -> float | LearningRateSchedule:
    """The learning rate as a function of only the number of steps done, so it resumes exactly.

    As in SimCLR, with n the steps done: peak n / warmup_steps until n is warmup_steps, so the first step of a warm-up
    changes no weight. Then "cosine" follows half a cosine that starts there and is zero from n = decay_steps on. The
    released code updates its cosine once an epoch and has no warm-up; here every step has its own value.

    Args:
        schedule: "constant" or "cosine"; "plateau" is constant here and lowered by a callback.
        peak: The highest learning rate.
        warmup_steps: Steps until the peak; 0 starts with it.
        decay_steps: Step at which "cosine" is zero, counted from the start of the run, warm-up included; not used by
            the others.

    Returns:
        `peak` itself where it never changes, otherwise a function from a count of steps, such as
        `optimizer.iterations`, to a float32 scalar.

    Raises:
        UsageError: If the warm-up leaves no steps for the cosine.
        ValueError: If there is no schedule of this name.
    """
    if schedule not in ("constant", "cosine", "plateau"):
        raise ValueError(f"schedule must be 'constant', 'cosine' or 'plateau'. Received: {schedule!r}")
    warm_up = {"warmup_target": peak, "warmup_steps": warmup_steps}
    if schedule != "cosine":
        # Keras has no constant schedule with a warm-up; this cosine stays at its peak.
        return CosineDecay(0.0, 1, alpha=1.0, **warm_up) if warmup_steps else peak
    if warmup_steps >= decay_steps:
        raise UsageError(
            f"The warm-up must end before step {decay_steps}, where the cosine reaches zero (--decay-steps or the end "
            f"of the run); received a warm-up of {warmup_steps} steps."
        )
    return CosineDecay(0.0, decay_steps - warmup_steps, **warm_up)


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """Length and learning rate of a run, resolved from its configuration and the size of its corpus.

    Attributes:
        num_steps: Length of the run.
        warmup_steps: Steps over which the learning rate rises.
        decay_steps: Step at which "cosine" reaches zero.
        peak_learning_rate: The highest learning rate.
    """

    num_steps: int
    warmup_steps: int
    decay_steps: int
    peak_learning_rate: float


def plan_of(config: TrainConfig, num_examples: int = 0) -> RunPlan:
    """The plan of a run.

    Args:
        config: The run, resolved.
        num_examples: Songs or clips of an epoch; needed for lengths in epochs.
    """
    num_steps = steps_of_epochs(config.epochs, config, num_examples) or config.steps
    return RunPlan(
        num_steps,
        warmup_steps=steps_of_epochs(config.warmup_epochs, config, num_examples) or config.warmup_steps,
        decay_steps=config.decay_steps or num_steps,
        peak_learning_rate=config.learning_rate or default_learning_rate(config.optimizer, config.batch_size),
    )


def steps_of_epochs(num_epochs: int, config: TrainConfig, num_examples: int) -> int:
    """Number of steps in N epochs; an epoch of pairs drops what does not fill a batch."""
    if config.has_labels:
        return math.ceil(num_epochs * num_examples / config.batch_size)
    # The dataset rejects a split with too few songs for a batch.
    return num_epochs * max(num_examples // config.batch_size, 1)


@dataclasses.dataclass(frozen=True)
class LabelSpec:
    """What an objective with labels predicts.

    Attributes:
        num_tags: Length of a multi-hot vector.
        single_label: Every clip has exactly one tag.
    """

    num_tags: int
    single_label: bool


def build_model(config: TrainConfig, plan: RunPlan | None = None, label_spec: LabelSpec | None = None) -> TrainingModel:
    """The model that a configuration describes: built, with its optimizer, ready to train or to restore.

    Call it inside the scope of the strategy.

    Args:
        config: The run, resolved.
        plan: Its plan; `plan_of(config)` if None.
        label_spec: For the objectives with labels.
    """
    plan = plan or plan_of(config)
    augmentations = augmentation_config(config.augmentation, config.augmentation_changes)
    chain = AugmentationChain(augmentations, sample_rate_hz=config.sample_rate_hz)
    with dtype_policy(config.precision):
        encoder = encoder_class(config.encoder)(
            width=config.width, sample_rate_hz=config.sample_rate_hz, seed=config.seed
        )
        shared = {"jit_views": config.jit, "num_micro_batches": config.micro_batches}
        model: TrainingModel
        if label_spec is None:
            projector = build_projector(projection_dim=config.projection_dim, seed=config.seed)
            model = ContrastiveModel(
                encoder, projector, chain, config.temperature, two_passes=config.two_passes, **shared
            )
        else:
            classifier = build_classifier(label_spec.num_tags, seed=config.seed)
            model = SupervisedModel(
                encoder, classifier, chain, single_label=label_spec.single_label, dropout=config.dropout, **shared
            )
        model.build()
    learning_rate = learning_rate_schedule(
        config.schedule,
        plan.peak_learning_rate,
        warmup_steps=plan.warmup_steps,
        decay_steps=plan.decay_steps,
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


def checkpoint_groups(model: TrainingModel) -> dict[str, dict[str, tf.Variable]]:
    """All variables that training changes, by the names that checkpoints use."""
    update = model.weight_update
    groups = {name: named_variables(part.variables) for name, part in model.parts.items()}
    # The names of an optimizer's variables contain numbers that Keras increments within a process.
    groups["optimizer"] = {str(index): variable.value for index, variable in enumerate(update.optimizer.variables)}
    groups["update"] = update.variables
    if update.averages:
        average_of = {id(weight): average for weight, average in zip(update.weights, update.averages, strict=True)}
        for name, part in model.parts.items():
            averages = [average_of[id(weight)] for weight in part.trainable_variables]
            groups[f"{name}_average"] = dict(zip(named_variables(part.trainable_variables), averages, strict=True))
    return groups
