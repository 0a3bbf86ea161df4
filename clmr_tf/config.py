"""What a training run can be told: typed, validated where it enters, written beside every result."""

import dataclasses
from pathlib import Path
from typing import Literal

from clmr_tf.config_rules import OBJECTIVE_DEFAULTS, require_possible

SAMPLE_RATES_HZ = (22050, 16000, 8000)

# Settings that say how long, where and how closely watched a run is, not what it computes: they may change
# when a run is resumed.
CHANGEABLE_ON_RESUME = frozenset(
    {
        "workdir",
        # Its fingerprint has to be the same, wherever it lies.
        "corpus",
        "corpora",
        "max_skipped_share",
        "steps",
        "epochs",
        "steps_per_execution",
        "strategy",
        "num_replicas",
        "on_nonfinite",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
        "on_failed_save",
        "validate_every",
        "num_validation_pairs",
        "probe_every_epochs",
        "best_metric",
        "early_stopping",
        "embeddings_every",
        "num_audio_examples",
        "allow_changed_corpus",
        "worker_timeout_seconds",
        "profile",
    }
)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Every setting of `python -m clmr_tf.train`. The defaults are those of the released CLMR code."""

    corpus: str = "demo"
    """Music to learn from: "demo" (ships with the project), the folder of a prepared corpus, or any folder of
    audio files, which is prepared first."""
    workdir: Path | None = None
    """Folder of the run: configuration, checkpoints, logs. Default: runs/NAME-OF-CORPUS. A folder that holds a
    run already is resumed."""
    corpora: Path = Path("corpora")
    """Folder that keeps what was prepared from audio files, for this and later runs."""
    steps: int = 10_000
    """Length of the training in steps of the optimizer, counted from the start of the run."""
    epochs: int = 0
    """Length of the training in epochs of the sampling unit. Where it is given, --steps does not count; 0 counts
    steps."""
    batch_size: int = 48
    """Songs (or clips, see --sampling-unit) per step on all devices; every one gives two views, so N in the
    paper's loss."""
    micro_batches: int = 1
    """Parts of a batch that go through the network one after the other, where all at once do not fit the memory;
    the negatives of a view, and the statistics of batch normalisation, then come from its own part only."""
    seed: int = 42
    """Seed of everything random: weights, order, crops, augmentations. A whole number from 0 to 2^31 - 1."""
    width: float = 1.0
    """Factor on the encoder's channels; the embedding has 512 dimensions at any width."""
    sample_rate_hz: Literal[22050, 16000, 8000] = 22050
    """Sample rate in Hz; a clip is 59,049, 43,470 or 20,736 samples long."""
    sampling_unit: Literal["song", "clip"] | None = None
    """What is drawn once per epoch: "song" (one item of each song, so clips of a song are never each other's
    negatives) or "clip" (every item). Default: "song"; of objectives with labels "clip"."""
    reader: Literal["prepared", "direct"] = "prepared"
    """"prepared" reads PCM made once from the files; "direct" decodes the compressed files while training, where
    PCM would not fit on the disk."""
    max_skipped_share: float = 0.5
    """Share of the audio files, from 0 to 1, that may turn out unusable while a folder is prepared."""
    learning_rate: float | None = None
    """Learning rate of the optimizer. Default: 3e-4; for "lars" 0.075 times the root of the batch size, or what
    --lars-scaling says."""
    lars_scaling: Literal["thesis", "released"] = "thesis"
    """Default learning rate of "lars": 0.075 times the root of the batch size, as in the thesis, or 0.3 times batch
    size / 256, as in the released code."""
    optimizer: Literal["adam", "adamw", "lars", "lamb", "sgd", "nesterov"] | None = None
    """Optimizer; "sgd", "nesterov" and "lars" have momentum 0.9. Default: "adam"; of "supervised" "nesterov"."""
    weight_decay: float = 1e-6
    """Weight decay of "adamw", "lamb" and "lars", of kernels only, and of "nesterov", of all weights; "adam" and "sgd"
    have none, as released."""
    schedule: Literal["constant", "cosine", "plateau"] | None = None
    """Learning rate over the steps: as it is, falling to zero along half a cosine, or a fifth whenever the validation
    loss no longer falls. Default: "constant"; of objectives with labels "plateau"."""
    plateau_patience: int = 5
    """Validations without a lower loss that "plateau" bears before it lowers the learning rate."""
    early_stopping: int | None = None
    """Validations in a row without a lower loss after which the run ends; 0 never. Default: 0; of objectives with
    labels 20, which are epochs only if --validate-every has the steps of one."""
    warmup_steps: int = 0
    """Steps at the beginning over which the learning rate rises from zero to its value."""
    warmup_epochs: int = 0
    """The same in epochs, instead of --warmup-steps."""
    decay_steps: int = 0
    """Step at which "cosine" reaches zero; 0 is the end of the run, which then cannot be moved on resume."""
    clip_norm: float = 0.0
    """Largest norm of the gradient of all weights together, over all devices; 0 clips nothing."""
    ema_momentum: float = 0.0
    """Share that a step keeps of the running average of the weights, such as 0.999; validations, probes and the
    export then take the average. 0 keeps no average."""
    temperature: float = 0.5
    """Temperature of the NT-Xent loss."""
    augmentation: str | None = None
    """Augmentation preset: "released" (ranges of the released code), "thesis", "none" (crop only), or one alone,
    such as "only-gain". Default: "released"; of objectives with labels "none"."""
    augmentation_changes: tuple[str, ...] = ()
    """Settings of the preset to change, each NAME=VALUE: `pitch.probability=0.5`, `pitch.cents=[-500, 500]` (in
    cents; a third number is the step), `order=[...]`, `asymmetric=true`. docs/augmentations.md names them all."""
    objective: Literal["contrastive", "supervised", "finetune"] = "contrastive"
    """What is learned: "contrastive" (CLMR, without labels); "supervised", the tags of the corpus from one crop of a
    clip, the baseline of the paper; "finetune", the same from a trained encoder."""
    pretrained: Path | None = None
    """Model folder or run that "finetune" starts from."""
    task: str | None = None
    """Name of one of several labelings of the corpus, for objectives with labels and for --probe-every-epochs.
    Default: its own tags."""
    labels: float = 1.0
    """Share of the songs of the train split whose labels an objective may use; a smaller share is part of a larger
    one."""
    labels_like_paper: float | None = None
    """The paper's few labels instead: this share of the clips of every combination of tags, at least one."""
    dropout: float = 0.5
    """Share of the embedding that objectives with labels leave out at random before their classifier."""
    strategy: Literal["auto", "single", "mirrored", "multi_worker"] = "auto"
    """Devices to train on: one, all of this machine, or all of the machines that TF_CONFIG names (each runs the same
    command, on a shared --workdir). "auto" takes what is there. The negatives come from all devices, and a run may
    go on with others: its numbers are then the same but for rounding."""
    num_replicas: int = 0
    """Devices that "mirrored" takes of this machine; 0 takes every GPU. Without a GPU it splits the CPU into that
    many, which is no faster and shows that the numbers stay the same."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16", "float64"] = "float32"
    """Arithmetic of the networks; augmentations are float32 in each, statistics, loss and update at least.
    "float64" is slow, and for comparing runs: rounding of float32 alone moves a gradient by some percent."""
    two_passes: bool = False
    """Encode the first views and then the second, as the original does, so that batch normalisation sees them
    apart; one pass of all views is faster."""
    jit: bool = False
    """Compile the views with XLA, and on a single device the whole step. Worth trying on a GPU; on a CPU it is
    slower."""
    steps_per_execution: int = 1
    """Steps that run without going back to Python."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What happens when a loss or gradient is NaN or infinite: the run stops and keeps what is needed to find out
    why, or it goes on without that step and counts it. A run that has skipped more than half of its steps fails at
    its end all the same."""
    log_every: int = 10
    """Steps between rows of metrics.jsonl and points of the TensorBoard curves."""
    checkpoint_every: int = 500
    """Steps between checkpoints; the end of the run and a stop by signal save one as well."""
    keep_checkpoints: int = 3
    """Number of newest checkpoints that are kept."""
    on_failed_save: Literal["stop", "continue"] = "stop"
    """What happens when a checkpoint cannot be written, because the disk is full for instance. The last good one
    stays in either case."""
    validate_every: int = 500
    """Steps between measurements of loss and accuracy on the validation split, on views that are the same every
    time; the end of the run is measured as well. 0 never."""
    num_validation_pairs: int = 256
    """Most pairs, or with labels crops, that a validation looks at."""
    probe_every_epochs: int = 0
    """Epochs between linear probes of a corpus with labels; 0 never."""
    best_metric: Literal["validation_loss", "validation_accuracy", "validation_average_precision", "probe_score"] = (
        "validation_loss"
    )
    """What decides which checkpoint is kept as the best, none with --validate-every 0; of objectives with labels,
    "validation_accuracy" is of single labels and "validation_average_precision" of several."""
    embeddings_every: int = 2_000
    """Steps between updates of TensorBoard's projector with embeddings of the validation split; the end of the
    run updates it as well. 0 never."""
    num_audio_examples: int = 3
    """Clips whose original and views can be heard in TensorBoard; they are written when a run starts."""
    allow_changed_corpus: bool = False
    """Resume although the corpus is not the one that the run began with."""
    worker_timeout_seconds: float = 600.0
    """With several workers: how long they wait for each other at the start, and then how long a step may take before
    the others are taken for lost and this one stops; the first one includes reading the corpus, restoring and
    building its graph."""
    profile: bool = False
    """Write a TensorBoard profile of the 10th to the 20th step of this start; TensorBoard shows it with the package
    tensorboard-plugin-profile."""

    def __post_init__(self) -> None:
        """Raises UsageError, one sentence, for values that no run can have."""
        require_possible(self)

    @property
    def has_labels(self) -> bool:
        """Whether the objective learns from labels."""
        return self.objective != "contrastive"

    def resolved(self) -> "TrainConfig":
        """The same with everything filled in that is left open to the objective."""
        defaults = OBJECTIVE_DEFAULTS[self.objective]
        filled_in = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **filled_in)
