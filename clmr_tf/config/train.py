"""The settings of a training, and which of them go together."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from clmr_tf.config.augmentation import augmentation_config
from clmr_tf.config.command_line import to_json
from clmr_tf.errors import UsageError

# Settings of a run's length, location and logs, which do not affect what it computes; they may change when it resumes.
CHANGEABLE_ON_RESUME = frozenset(
    {
        "workdir",
        # Its fingerprint must stay the same; its path may change.
        "corpus",
        "corpora",
        "max_skipped_fraction",
        "steps",
        "epochs",
        "steps_per_execution",
        "strategy",
        "num_replicas",
        "on_nonfinite",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
        "validate_every",
        "num_validation_pairs",
        "probe_every_epochs",
        "best_metric",
        "early_stopping",
        "embeddings_every",
        "num_audio_examples",
        "allow_changed_corpus",
        "worker_timeout_seconds",
    }
)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Every setting of `python -m clmr_tf.train`. The defaults are those of the released CLMR code."""

    corpus: str = "demo"
    """Music to train on: "demo" (comes with the project), the folder of a prepared corpus, or any folder of audio
    files, which is prepared first."""
    workdir: Path | None = None
    """Run folder: configuration, checkpoints, logs. Default: runs/NAME-OF-CORPUS. If it already holds a run, that run
    is resumed."""
    corpora: Path = Path("corpora")
    """Folder for prepared corpora, which later runs reuse."""
    steps: int = 10_000
    """Length of the training in optimizer steps, counted from the start of the run."""
    epochs: int = 0
    """Length of the training in epochs. Overrides --steps; 0 means use --steps."""
    batch_size: int = 48
    """Songs (or clips, see --sampling-unit) per step over all devices. Each gives two views, so this is N in the
    paper's loss."""
    micro_batches: int = 1
    """Split each batch into this many parts that are processed one after the other, if a whole batch does not fit
    into memory. Negatives and batch statistics then come from the same part only."""
    seed: int = 42
    """Seed of everything random: weights, order, crops, augmentations. A whole number from 0 to 2^31 - 1."""
    encoder: Literal["sample_cnn", "mel_cnn", "tune", "tail"] = "sample_cnn"
    """The network: "sample_cnn" (the paper's), "mel_cnn" (five convolutions on a log-mel spectrogram), "tune" (TUNe+, a
    U-Net with a tail), or "tail" (Tail+5, without the connections into the tail)."""
    width: float = 1.0
    """Factor on the number of channels of the encoder. The embedding always has 512 dimensions."""
    sample_rate_hz: Literal[22050, 16000, 8000] = 22050
    """Sample rate in Hz; a clip is 59,049, 43,470 or 20,736 samples long."""
    sampling_unit: Literal["song", "clip"] | None = None
    """What an epoch visits once: "song" (one item of each song, so clips of a song are never each other's negatives) or
    "clip" (every item). Default: "song", or "clip" with labels."""
    max_crop_distance_seconds: float | None = None
    """Largest time between the starts of the two crops of a pair. Default: any, as in the paper."""
    reader: Literal["prepared", "direct"] = "prepared"
    """"prepared" decodes all files once and reads PCM; "direct" decodes the files while training, for corpora whose PCM
    does not fit on the disk."""
    max_skipped_fraction: float = 0.5
    """Largest fraction of unusable audio files, from 0 to 1, that is accepted when a folder is prepared."""
    learning_rate: float | None = None
    """Learning rate. Default: 3e-4; for "lars" 0.075 times the square root of the batch size, as in the thesis. The
    released code has 0.3 times batch size / 256 for "lars"."""
    optimizer: Literal["adam", "adamw", "lars", "lamb", "sgd", "nesterov"] | None = None
    """Optimizer; "sgd", "nesterov" and "lars" have momentum 0.9. Default: "adam", or "nesterov" with --objective
    supervised."""
    weight_decay: float = 1e-6
    """Weight decay: of kernels only with "adamw", "lamb" and "lars", of all weights with "nesterov"; "adam" and "sgd"
    have none, as in the released code."""
    schedule: Literal["constant", "cosine", "plateau"] | None = None
    """Learning rate schedule: "constant"; "cosine", down to zero; "plateau", divided by 5 whenever the validation loss
    stops falling. Default: "constant", or "plateau" with labels."""
    plateau_patience: int = 5
    """Patience of --schedule plateau: validations without a lower loss before the learning rate is lowered."""
    early_stopping: int | None = None
    """End the run after this many validations in a row without a lower loss; 0 disables it. Default: 0, or 20 with
    labels. These are epochs only if --validate-every is the number of steps of an epoch."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from zero at the start."""
    warmup_epochs: int = 0
    """The warm-up in epochs, instead of --warmup-steps."""
    decay_steps: int = 0
    """Step at which "cosine" reaches zero. 0 means the end of the run, which then cannot be changed when the run is
    resumed."""
    clip_norm: float = 0.0
    """Clip the gradient of all weights, over all devices, to this norm; 0 disables clipping."""
    ema_momentum: float = 0.0
    """Momentum of a running average of the weights, such as 0.999. Validation, probes and export then use the average.
    0 disables it."""
    temperature: float = 0.5
    """Temperature of the NT-Xent loss."""
    projection_dim: int = 64
    """Size of the projection that the loss compares; the code of the thesis has 128."""
    augmentation: str | None = None
    """Augmentation preset: "released" (ranges of the released code), "thesis", "none" (crop only), or a single one such
    as "only-gain". Default: "released", or "none" with labels."""
    augmentation_changes: tuple[str, ...] = ()
    """Changes to the preset, each NAME=VALUE: `pitch.probability=0.5`, `pitch.cents=[-500, 500]` (a third number is
    the step), `order=[...]`, `asymmetric=true`. docs/augmentations.md lists all names."""
    objective: Literal["contrastive", "supervised", "finetune"] = "contrastive"
    """"contrastive" (CLMR, without labels); "supervised" (the paper's baseline: tags from one crop of a clip);
    "finetune" (the same, starting from a trained encoder)."""
    pretrained: Path | None = None
    """Model folder or run folder that "finetune" starts from."""
    task: str | None = None
    """Name of a task of the corpus, if it has several sets of labels; for training with labels and for
    --probe-every-epochs. Default: the corpus's own tags."""
    labels: float = 1.0
    """Fraction of the songs of the train split whose labels may be used; smaller ones are subsets of larger ones."""
    labels_like_paper: float | None = None
    """Fraction of labels, selected as in the original code: this fraction of the clips of every combination of tags, at
    least one. Instead of --labels."""
    dropout: float = 0.5
    """Dropout on the embedding before the classifier, when training with labels."""
    strategy: Literal["auto", "single", "mirrored", "multi_worker"] = "auto"
    """Devices: one, all of this machine, or all machines that TF_CONFIG names or srun uses (each runs the same command
    with a shared --workdir). "auto" uses what is available. Negatives come from all devices. A run can be resumed on
    other devices; its numbers are then equal up to rounding."""
    num_replicas: int = 0
    """Number of devices that "mirrored" uses; 0 means every GPU. Without a GPU, the CPU is split into this many, which
    is not faster."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16", "float64"] = "float32"
    """Precision of the networks. Augmentations are always float32; statistics, loss and update are at least float32.
    "float64" is slow and meant for comparing runs."""
    two_passes: bool = False
    """Encode first and second views separately, as the original does, so that each gets its own batch statistics. One
    pass over all views is faster."""
    jit: bool = False
    """Compile the augmentations with XLA, and on a single device the whole step. May help on a GPU; slower on a CPU."""
    steps_per_execution: int = 1
    """Steps that run without returning to Python."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What to do if a loss or gradient is NaN or infinite: stop and save a report, or skip the step and count it. A run
    that skipped more than half of its steps fails at its end."""
    log_every: int = 10
    """Steps between rows of metrics.jsonl and points of the TensorBoard curves."""
    checkpoint_every: int = 500
    """Steps between checkpoints. The end of the run and a stop by a signal also save one."""
    keep_checkpoints: int = 3
    """Number of newest checkpoints to keep."""
    validate_every: int = 500
    """Steps between validations, which measure loss and accuracy on the validation split, always on the same views. The
    end of the run is validated too. 0 disables validation."""
    num_validation_pairs: int = 256
    """Largest number of pairs (with labels, of crops) used for a validation."""
    probe_every_epochs: int = 0
    """Epochs between linear probes, for a corpus with labels; 0 disables them."""
    best_metric: Literal["validation_loss", "validation_accuracy", "validation_average_precision", "probe_score"] = (
        "validation_loss"
    )
    """Metric that selects the best checkpoint; none is kept with --validate-every 0. With labels,
    "validation_accuracy" is for one label per clip and "validation_average_precision" for several."""
    embeddings_every: int = 2_000
    """Steps between updates of TensorBoard's projector with embeddings of the validation split. The end of the run
    updates it too. 0 disables it."""
    num_audio_examples: int = 3
    """Number of clips that TensorBoard plays, each with its views; written when a run starts."""
    allow_changed_corpus: bool = False
    """Resume even if the corpus has changed since the run was started."""
    worker_timeout_seconds: float = 600.0
    """With several workers: how long to wait for all of them at the start, and how long a step may take before a worker
    counts as lost. The first step includes reading the corpus, restoring and building the graph."""

    def __post_init__(self) -> None:
        """Raises UsageError for invalid or contradictory values."""
        _validate(self)

    @property
    def has_labels(self) -> bool:
        """Whether the objective uses labels."""
        return self.objective != "contrastive"

    def resolved(self) -> "TrainConfig":
        """A copy in which the defaults that depend on the objective are filled in."""
        return dataclasses.replace(self, **_filled_in(self))


# Defaults that depend on the objective: CLMR as released, and its supervised baseline.
_WITHOUT_LABELS = {"sampling_unit": "song", "schedule": "constant", "augmentation": "released", "early_stopping": 0}
_WITH_LABELS = {"sampling_unit": "clip", "schedule": "plateau", "augmentation": "none", "early_stopping": 20}
OBJECTIVE_DEFAULTS: dict[str, dict[str, Any]] = {
    "contrastive": {**_WITHOUT_LABELS, "optimizer": "adam"},
    "supervised": {**_WITH_LABELS, "optimizer": "nesterov"},
    "finetune": {**_WITH_LABELS, "optimizer": "adam"},
}


def _filled_in(config: TrainConfig) -> dict[str, Any]:
    """The settings whose defaults depend on the objective."""
    return {
        name: default if getattr(config, name) is None else getattr(config, name)
        for name, default in OBJECTIVE_DEFAULTS[config.objective].items()
    }


def changed_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a recorded run that differ from the defaults of its objective.

    Args:
        settings: From a config.json, possibly of an earlier version; settings that no longer exist are left out.
    """
    defaults = {**to_json(TrainConfig()), **OBJECTIVE_DEFAULTS.get(settings.get("objective", ""), {})}
    return {name: value for name, value in settings.items() if name in defaults and value != defaults[name]}


_AT_LEAST_1 = (
    *("steps", "micro_batches", "steps_per_execution", "log_every", "checkpoint_every", "keep_checkpoints"),
    *("num_validation_pairs", "plateau_patience", "projection_dim"),
)
_NOT_NEGATIVE = (
    *("epochs", "warmup_steps", "warmup_epochs", "decay_steps", "num_replicas", "validate_every"),
    *("probe_every_epochs", "embeddings_every", "num_audio_examples", "early_stopping"),
)
_RULES: tuple[tuple[Callable[[float], bool], str, tuple[str, ...]], ...] = (
    (lambda value: value >= 1, "must be at least 1", _AT_LEAST_1),
    (lambda value: value >= 0, "must not be negative", _NOT_NEGATIVE),
    (lambda value: value >= 2, "must be at least 2, or there are no negatives", ("batch_size",)),
    (lambda value: value > 0, "must be above 0", ("worker_timeout_seconds",)),
    (lambda value: 0 <= value < 2**31, "must be between 0 and 2147483647", ("seed",)),
    (lambda value: 0 < value <= 8, "must be above 0 and at most 8", ("width",)),
    (lambda value: 0 < value < math.inf, "must be positive and finite", ("temperature", "learning_rate")),
    (
        lambda value: 0 <= value < math.inf,
        "must be finite and not negative",
        ("clip_norm", "weight_decay", "max_crop_distance_seconds"),
    ),
    (lambda value: 0 <= value <= 1, "must be from 0 to 1", ("max_skipped_fraction",)),
    (lambda value: 0 < value <= 1, "must be a fraction above 0 and up to 1", ("labels", "labels_like_paper")),
    (lambda value: 0 <= value < 1, "must be from 0 to below 1", ("ema_momentum", "dropout")),
)
# Thread timeouts have a limit, and every replica has a copy of the network.
_AT_MOST = {"worker_timeout_seconds": 1_000_000, "num_replicas": 64, "projection_dim": 65_536}
# They have no effect without labels, so other values are rejected.
_ONLY_WITH_LABELS = {"labels": 1.0, "labels_like_paper": None, "dropout": 0.5}


def _validate(config: Any) -> None:
    _require(config.corpus != "", "--corpus must name a corpus or a folder of music", "nothing")
    for is_right, rule, names in _RULES:
        for name in names:
            value = getattr(config, name)
            _require(value is None or is_right(value), f"{_option(name)} {rule}", value)
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
    _require(0 in lengths, "--warmup-steps and --warmup-epochs cannot be combined", lengths)
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
    filled_in = _filled_in(config)
    augmentation_config(filled_in["augmentation"], config.augmentation_changes)
    needs_validation = filled_in["schedule"] == "plateau" or filled_in["early_stopping"] > 0
    _require(
        not needs_validation or config.validate_every > 0,
        "--schedule plateau and --early-stopping need --validate-every",
        config.validate_every,
    )
    lengths = (config.warmup_steps, config.warmup_epochs)
    _require(filled_in["schedule"] != "plateau" or lengths == (0, 0), "--schedule plateau has no warm-up", lengths)
    if (config.objective == "finetune") != (config.pretrained is not None):
        raise UsageError(
            "--objective finetune needs --pretrained, the model or run to start from, and no other objective accepts "
            f"it; received --objective {config.objective} and --pretrained {config.pretrained}."
        )
    for name, default in () if config.has_labels else _ONLY_WITH_LABELS.items():
        rule = f"{_option(name)} is for --objective supervised and finetune"
        _require(getattr(config, name) == default, rule, getattr(config, name))
    _require(
        config.labels == 1 or config.labels_like_paper is None,
        "use --labels or --labels-like-paper, not both",
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
