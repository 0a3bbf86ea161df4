"""What a probe can be told: typed, validated where it enters."""

import dataclasses
from pathlib import Path
from typing import Literal

from clmr_tf.errors import UsageError
from clmr_tf.model_option import DEMO_MODEL

_LARGEST_SEED = 2**31 - 3


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
    """Settings of the probe."""

    model: Path = DEMO_MODEL
    """Model folder, as `python -m clmr_tf.export` writes it. Default: the demo model of a checkout."""
    corpus: str = "demo"
    """Corpus with tags and three splits: "demo", or the folder of a prepared one, such as
    `python -m pipelines.folder MUSIC --out corpora/mine --tags folder --test-share 0.2` makes."""
    corpora: Path = Path("corpora")
    """Folder that keeps what was prepared from audio files."""
    out: Path | None = None
    """JSON file with the result. Default: probe-NAME-OF-CORPUS.json in the model folder; with the presets that train a
    head, evaluation-....json, named by corpus and options, the seed among them if it is not 42. A result in the model
    folder goes into the manifest and the model card as well; one elsewhere leaves the model folder as it is."""
    seed: int = 42
    """Of everything drawn: crops, few labels, heads, untrained weights. The quick preset draws the weights of three
    untrained encoders, of this seed and the two after it."""
    preset: Literal["quick", "released", "thesis", "grid"] = "quick"
    """How: "quick" is logistic regression on all windows, beside untrained encoders and a guess. The others train a
    head: "released" as CLMR's released code, "thesis" by the numbers of the thesis, "grid" is the best on the
    validation split of JukeMIR's 216."""
    head: Literal["linear", "mlp", "own"] = "linear"
    """One layer, or one hidden layer of 512 units before it; the grid tries both, quick has its own. "own" trains none:
    it scores a model that was trained with labels by its own classifier."""
    features: str = "model"
    """What the head learns from: "model", its architecture "untrained", "mel", mean and deviation of a log-mel
    spectrogram, "majority", nothing but how often each tag occurs, or other features by MODULE:CLASS, such as
    pipelines.musicnn_features:MusicnnFeatures."""
    labels: float = 1.0
    """Share of the songs of the train split whose labels may be used; a smaller share is part of a larger one."""
    labels_like_paper: float | None = None
    """The paper's few labels instead: this share of the 2.7 s chunks of every combination of tags, at least one."""
    task: str | None = None
    """Name of one of several labelings of the corpus. Default: its own tags."""
    features_cache: Path = Path("features")
    """Folder that keeps features once they are computed, and the runs of a grid that was interrupted."""

    def __post_init__(self) -> None:
        """Raises UsageError for a seed that nothing can be drawn with."""
        # The quick preset takes the two after it as well.
        if not 0 <= self.seed <= _LARGEST_SEED:
            raise UsageError(f"--seed must be between 0 and {_LARGEST_SEED}; received {self.seed}.")
