"""Settings of a probe."""

import dataclasses
from pathlib import Path
from typing import Literal

from clmr_tf.errors import UsageError
from clmr_tf.probe.protocols import PROTOCOLS

FEATURES = ("model", "untrained", "mel", "majority")
COMPARABLE = ("standard", "retrieval")
"""Presets whose results contain what a comparison needs."""
_WITHOUT_EFFECT_ON_RETRIEVAL = ("head", "labels", "labels_seed", "labels_like_paper")
_LARGEST_SEED = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
    """Settings of the probe."""

    model: Path = Path("savedmodels/music-small")
    """Model folder written by `python -m clmr_tf.export`. Default: the model that a checkout includes."""
    corpus: str = "demo"
    """Corpus with tags and three splits: "demo", or the folder of a prepared one, made for example by
    `python -m pipelines.folder MUSIC --out corpora/mine --tags folder --test-fraction 0.2`. Retrieval needs no tags
    and only one split besides the train split."""
    corpora: Path = Path("corpora")
    """Folder for prepared corpora."""
    out: Path | None = None
    """JSON file for the result. Default: in the model folder, evaluation-....json, named by corpus and options;
    retrieval-....json with the preset retrieval. A result in the model folder is also added to the manifest and the
    model card, with its differences from other features."""
    seed: int = 42
    """Seed of everything random: crops, views, label subsets, heads, untrained weights."""
    preset: Literal["standard", "retrieval", "released", "thesis", "grid"] = "standard"
    """Protocol. "standard", for comparing encoders of this project: logistic regression on all windows, and the
    difference from untrained weights on the same test songs. "retrieval", without labels: which held-out recording does
    an augmented view come from? To reproduce published numbers: "released" (CLMR's released code), "thesis", or
    "grid" (the best of JukeMIR's 216 settings on the validation split)."""
    head: Literal["linear", "mlp", "own"] = "linear"
    """"linear": one layer. "mlp": one hidden layer of 512 units. "own": no training, but the classifier of a model that
    was trained with labels. Preset "grid" tries the first two, "standard" has no MLP, and "retrieval" no head."""
    features: str = "model"
    """Input of the head: "model"; "untrained", the same architecture with random weights; "mel", mean and standard
    deviation of a log-mel spectrogram; "majority", tag frequencies only; or MODULE:CLASS, such as
    pipelines.musicnn:MusicnnFeatures."""
    labels: float = 1.0
    """Fraction of the songs of the train split whose labels may be used; smaller ones are subsets of larger ones."""
    labels_seed: int | None = None
    """Seed of the subset of --labels or --labels-like-paper, to draw several without changing anything else. Default:
    --seed."""
    labels_like_paper: float | None = None
    """Fraction of labels, selected as in the original code: this fraction of the 2.7 s chunks of every combination of
    tags, at least one. Instead of --labels."""
    compare: tuple[Path, ...] = ()
    """Results of the same preset to subtract from this one, on the same resampled songs: evaluation-....json of
    "standard", or retrieval-....json."""
    baselines: bool = True
    """With the presets standard and retrieval, also score untrained weights, with retrieval mel statistics too, and the
    differences from them. Leave them out if they are scored anyway, for example with --features."""
    task: str | None = None
    """Name of a task of the corpus, if it has several sets of labels and splits. Default: the corpus's own tags and
    splits."""
    features_cache: Path = Path("features")
    """Folder for computed features, and for the progress of an interrupted grid. Not used by "retrieval"."""

    def __post_init__(self) -> None:
        """Raises UsageError for values out of range and options that cannot be combined."""
        for option, seed in (("--seed", self.seed), ("--labels-seed", self.labels_seed)):
            if seed is not None and not 0 <= seed <= _LARGEST_SEED:
                raise UsageError(f"{option} must be between 0 and {_LARGEST_SEED}; received {seed}.")
        module, _, name = self.features.partition(":")
        if self.features not in FEATURES and not (module and name):
            raise UsageError(
                f"--features must be one of {', '.join(FEATURES)}, or MODULE:CLASS of other features; "
                f"received {self.features!r}."
            )
        for option, fraction in (("--labels", self.labels), ("--labels-like-paper", self.labels_like_paper)):
            if fraction is not None and not 0 < fraction <= 1:
                raise UsageError(f"{option} must be a fraction above 0 and up to 1; received {fraction}.")
        self._refuse_options_without_effect()
        if self.head == "own" and (self.features, self.labels, self.labels_like_paper) != ("model", 1.0, None):
            raise UsageError(
                "--head own scores a model as it was trained, with its training labels; leave out --features, "
                "--labels and --labels-like-paper."
            )
        if self.head == "own" and self.preset == "grid":
            raise UsageError(
                "--head own trains nothing, so there is no grid; use --preset standard, released or thesis."
            )
        if self.labels_like_paper is None:
            return
        if self.labels < 1:
            raise UsageError("--labels and --labels-like-paper cannot be combined.")
        if PROTOCOLS[self.preset].train_windows == "mean":
            raise UsageError(
                f"--labels-like-paper selects from the chunks of clips, but the preset {self.preset} trains on means "
                "over whole clips; use --labels, or the preset standard, thesis or released."
            )

    def _refuse_options_without_effect(self) -> None:
        for option in _WITHOUT_EFFECT_ON_RETRIEVAL if self.preset == "retrieval" else ():
            # The class attributes are the defaults.
            if getattr(self, option) != getattr(ProbeConfig, option):
                raise UsageError(
                    f"--{option.replace('_', '-')} has no effect with --preset {self.preset}; choose standard, "
                    "released, thesis or grid."
                )
        if self.preset == "standard" and self.head == "mlp":
            raise UsageError("--preset standard has a linear head; use --head linear, or --preset released or thesis.")
        if self.compare and self.preset not in COMPARABLE:
            raise UsageError(
                f"--compare has no effect with --preset {self.preset}; use --preset {' or '.join(COMPARABLE)} for both."
            )
        if not self.baselines and self.preset not in COMPARABLE:
            raise UsageError(
                f"--no-baselines has no effect with --preset {self.preset}; use it with {' or '.join(COMPARABLE)}."
            )
