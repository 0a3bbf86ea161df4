"""What a training run can be told: typed, validated where it enters, written beside every result."""

import dataclasses
import math
from pathlib import Path
from typing import Literal

from clmr_tf.augmentation_changes import augmentation_config
from clmr_tf.errors import UsageError

SAMPLE_RATES_HZ = (22050, 16000, 8000)

# Settings that say how long, where and how closely watched a run is, not what it computes: they may change
# when a run is resumed.
CHANGEABLE_ON_RESUME = frozenset(
    {
        "workdir",
        "corpora",
        "max_skipped_share",
        "steps",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
        "embeddings_every",
        "num_audio_examples",
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
    batch_size: int = 48
    """Songs (or clips, see --sampling-unit) per step; every one gives two views, so N in the paper's loss."""
    seed: int = 42
    """Seed of everything random: weights, order, crops, augmentations. A whole number from 0 to 2^31 - 1."""
    width: float = 1.0
    """Factor on the encoder's channels; the embedding has 512 dimensions at any width."""
    sample_rate_hz: Literal[22050, 16000, 8000] = 22050
    """Sample rate in Hz; a clip is 59,049, 43,470 or 20,736 samples long."""
    sampling_unit: Literal["song", "clip"] = "song"
    """What is drawn once per epoch: "song" (one item of each song, so clips of a song are never each other's
    negatives) or "clip" (every item)."""
    reader: Literal["prepared", "direct"] = "prepared"
    """"prepared" reads PCM made once from the files; "direct" decodes the compressed files while training, where
    PCM would not fit on the disk."""
    max_skipped_share: float = 0.5
    """Share of the audio files, from 0 to 1, that may turn out unusable while a folder is prepared."""
    learning_rate: float = 3e-4
    """Learning rate of the optimizer."""
    optimizer: Literal["adam", "adamw", "lamb", "sgd"] = "adam"
    """Optimizer; "sgd" has momentum 0.9."""
    temperature: float = 0.5
    """Temperature of the NT-Xent loss."""
    augmentation: str = "released"
    """Augmentation preset: "released" (ranges of the released code), "thesis", "none" (crop only), or one alone,
    such as "only-gain"."""
    augmentation_changes: tuple[str, ...] = ()
    """Settings of the preset to change, each NAME=VALUE: `pitch.probability=0.5`, `pitch.cents=[-500, 500]` (in
    cents; a third number is the step), `order=[...]`, `asymmetric=true`. docs/augmentations.md names them all."""
    objective: Literal["contrastive"] = "contrastive"
    """What is learned; "contrastive" (CLMR) is the only objective so far."""
    strategy: Literal["auto", "single"] = "auto"
    """Devices to train on; so far "auto" and "single" both train on one device and do the same."""
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    """Arithmetic of the networks; augmentations, statistics and loss are float32 in either."""
    jit: bool = False
    """Compile the augmentations with XLA. Worth trying on a GPU; on a CPU it gains nothing."""
    log_every: int = 10
    """Steps between rows of metrics.jsonl and points of the TensorBoard curves."""
    checkpoint_every: int = 500
    """Steps between checkpoints; the end of the run and a stop by signal save one as well."""
    keep_checkpoints: int = 3
    """Number of newest checkpoints that are kept."""
    embeddings_every: int = 2_000
    """Steps between updates of TensorBoard's projector with embeddings of the validation split; the end of the
    run updates it as well. 0 never."""
    num_audio_examples: int = 3
    """Clips whose original and views can be heard in TensorBoard; they are written when a run starts."""

    def __post_init__(self) -> None:
        """Raises UsageError, one sentence, for values that no run can have."""
        _require(self.corpus != "", "--corpus must name a corpus or a folder of music", "nothing")
        _require(self.steps >= 1, "--steps must be at least 1", self.steps)
        _require(self.batch_size >= 2, "--batch-size must be at least 2, or there are no negatives", self.batch_size)
        _require(0 <= self.seed < 2**31, "--seed must be between 0 and 2147483647", self.seed)
        _require(0 < self.width <= 8, "--width must be above 0 and at most 8", self.width)
        _require(0 < self.learning_rate < math.inf, "--learning-rate must be positive and finite", self.learning_rate)
        _require(0 < self.temperature < math.inf, "--temperature must be positive and finite", self.temperature)
        _require(0 <= self.max_skipped_share <= 1, "--max-skipped-share must be from 0 to 1", self.max_skipped_share)
        augmentation_config(self.augmentation, self.augmentation_changes)
        for name in ("log_every", "checkpoint_every", "keep_checkpoints"):
            option = "--" + name.replace("_", "-")
            _require(getattr(self, name) >= 1, f"{option} must be at least 1", getattr(self, name))
        for name in ("embeddings_every", "num_audio_examples"):
            option = "--" + name.replace("_", "-")
            _require(getattr(self, name) >= 0, f"{option} must not be negative", getattr(self, name))


def _require(condition: bool, rule: str, received: object) -> None:
    if not condition:
        raise UsageError(f"{rule}; received {received}.")
