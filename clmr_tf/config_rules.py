"""What the settings of a run can be, and which of them go together."""

import math
from typing import Any

from clmr_tf.augmentation_changes import augmentation_config
from clmr_tf.errors import UsageError

# What a run is told where it leaves these open: CLMR as released, and its supervised baseline.
_WITHOUT_LABELS = {"sampling_unit": "song", "schedule": "constant", "augmentation": "released", "early_stopping": 0}
_WITH_LABELS = {"sampling_unit": "clip", "schedule": "plateau", "augmentation": "none", "early_stopping": 20}
OBJECTIVE_DEFAULTS: dict[str, dict[str, Any]] = {
    "contrastive": {**_WITHOUT_LABELS, "optimizer": "adam"},
    "supervised": {**_WITH_LABELS, "optimizer": "nesterov"},
    "finetune": {**_WITH_LABELS, "optimizer": "adam"},
}

_POSITIVE = (
    "steps",
    "micro_batches",
    "steps_per_execution",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "num_validation_pairs",
    "plateau_patience",
)
_NOT_NEGATIVE = (
    "epochs",
    "warmup_steps",
    "warmup_epochs",
    "decay_steps",
    "num_replicas",
    "validate_every",
    "probe_every_epochs",
    "embeddings_every",
    "num_audio_examples",
)
# Threads cannot wait longer than some centuries; and every replica holds a copy of the network.
_AT_MOST = {"worker_timeout_seconds": 1_000_000, "num_replicas": 64}
# Of no effect without labels, and nothing shall be asked for in vain.
_ONLY_WITH_LABELS = {"labels": 1.0, "labels_like_paper": None, "dropout": 0.5}


def require_possible(config: Any) -> None:
    """Raises UsageError, one sentence, for a `TrainConfig` that no run can have."""
    _require(config.corpus != "", "--corpus must name a corpus or a folder of music", "nothing")
    _require(config.batch_size >= 2, "--batch-size must be at least 2, or there are no negatives", config.batch_size)
    _require(0 <= config.seed < 2**31, "--seed must be between 0 and 2147483647", config.seed)
    _require(0 < config.width <= 8, "--width must be above 0 and at most 8", config.width)
    _require(0 < config.temperature < math.inf, "--temperature must be positive and finite", config.temperature)
    _require(0 <= config.max_skipped_share <= 1, "--max-skipped-share must be from 0 to 1", config.max_skipped_share)
    _require(0 <= config.ema_momentum < 1, "--ema-momentum must be from 0 to below 1", config.ema_momentum)
    _require(0 <= config.dropout < 1, "--dropout must be from 0 to below 1", config.dropout)
    if config.learning_rate is not None:
        rule = "--learning-rate must be positive and finite"
        _require(0 < config.learning_rate < math.inf, rule, config.learning_rate)
    for name in ("clip_norm", "weight_decay"):
        rule = f"{_option(name)} must be finite and not negative"
        _require(0 <= getattr(config, name) < math.inf, rule, getattr(config, name))
    for name in _POSITIVE:
        _require(getattr(config, name) > 0, f"{_option(name)} must be at least 1", getattr(config, name))
    seconds = config.worker_timeout_seconds
    _require(seconds > 0, "--worker-timeout-seconds must be above 0", seconds)
    for name in _NOT_NEGATIVE:
        _require(getattr(config, name) >= 0, f"{_option(name)} must not be negative", getattr(config, name))
    for name, largest in _AT_MOST.items():
        rule = f"{_option(name)} must be at most {largest}"
        _require(getattr(config, name) <= largest, rule, getattr(config, name))
    parts = f"{config.micro_batches} of {config.batch_size}"
    _require(
        config.batch_size % config.micro_batches == 0 and config.batch_size >= 2 * config.micro_batches,
        "--micro-batches must divide --batch-size into equal parts of at least 2",
        parts,
    )
    lengths = (config.warmup_steps, config.warmup_epochs)
    _require(0 in lengths, "--warmup-steps and --warmup-epochs exclude each other", lengths)
    _require(
        config.best_metric != "probe_score" or config.probe_every_epochs > 0,
        "--best-metric probe_score needs --probe-every-epochs",
        config.probe_every_epochs,
    )
    _require(
        config.best_metric not in ("validation_accuracy", "validation_average_precision") or config.validate_every > 0,
        f"--best-metric {config.best_metric} needs --validate-every",
        config.validate_every,
    )
    _require_fitting_objective(config)


def _require_fitting_objective(config: Any) -> None:
    filled_in = {
        name: default if getattr(config, name) is None else getattr(config, name)
        for name, default in OBJECTIVE_DEFAULTS[config.objective].items()
    }
    augmentation_config(filled_in["augmentation"], config.augmentation_changes)
    _require(filled_in["early_stopping"] >= 0, "--early-stopping must not be negative", config.early_stopping)
    watches = filled_in["schedule"] == "plateau" or filled_in["early_stopping"] > 0
    _require(
        not watches or config.validate_every > 0,
        "--schedule plateau and --early-stopping need --validate-every",
        config.validate_every,
    )
    lengths = (config.warmup_steps, config.warmup_epochs)
    _require(filled_in["schedule"] != "plateau" or lengths == (0, 0), "--schedule plateau has no warm-up", lengths)
    if (config.objective == "finetune") != (config.pretrained is not None):
        raise UsageError(
            "--objective finetune needs --pretrained, the model or run to start from, and no other objective takes it; "
            f"received --objective {config.objective} and --pretrained {config.pretrained}."
        )
    for name, default in () if config.has_labels else _ONLY_WITH_LABELS.items():
        rule = f"{_option(name)} is for --objective supervised and finetune"
        _require(getattr(config, name) == default, rule, getattr(config, name))
    for name in ("labels", "labels_like_paper"):
        share = getattr(config, name)
        _require(share is None or 0 < share <= 1, f"{_option(name)} must be a share above 0 and up to 1", share)
    _require(
        config.labels == 1 or config.labels_like_paper is None,
        "--labels and --labels-like-paper are two ways to choose few labels, so give one of them",
        f"{config.labels} and {config.labels_like_paper}",
    )
    _require(
        config.has_labels or config.best_metric != "validation_average_precision",
        "--best-metric validation_average_precision is for --objective supervised and finetune",
        config.objective,
    )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _require(condition: bool, rule: str, received: object) -> None:
    if not condition:
        raise UsageError(f"{rule}; received {received}.")
