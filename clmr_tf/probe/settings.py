"""What is asked of a probe."""

import dataclasses
from pathlib import Path
from typing import Literal

from clmr_tf.config.model_option import DEMO_MODEL
from clmr_tf.errors import UsageError
from clmr_tf.probe.protocols import PROTOCOLS

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
    pipelines.musicnn:MusicnnFeatures."""
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


FEATURES = ("model", "untrained", "mel", "majority")


@dataclasses.dataclass(frozen=True)
class HeadProbe:
    """What to evaluate.

    Attributes:
        model: Model folder; of a baseline its architecture, clip length and rate.
        corpus: What `resolve_corpus` takes.
        corpora: Folder of prepared corpora.
        cache: Folder of computed features and of the journals of grids.
        preset: A name in `PROTOCOLS`.
        head: "linear" or "mlp"; the grid tries both whatever it is. "own" trains none: the model is scored by the
            classifier that it was trained with.
        features: "model", "untrained", "mel", "majority", or MODULE:CLASS of a `FeatureSource` of one's own.
        labels: Share of the songs of the train split that may be learnt from.
        labels_like_paper: The share that the original takes of the chunks of each combination of tags, instead.
        task: Name of a labeling of the corpus; None for its own.
        seed: Of crops, subsets, heads, and of an untrained encoder.
    """

    model: Path
    corpus: str
    corpora: Path
    cache: Path
    preset: str
    head: str = "linear"
    features: str = "model"
    labels: float = 1.0
    labels_like_paper: float | None = None
    task: str | None = None
    seed: int = 42


def request_of(config: ProbeConfig) -> HeadProbe:
    """What the command is told, as a request; its preset is one that trains a head, and its model is given."""
    return HeadProbe(
        model=config.model.expanduser(),
        corpus=config.corpus,
        corpora=config.corpora.expanduser(),
        cache=config.features_cache.expanduser(),
        preset=config.preset,
        head=config.head,
        features=config.features,
        labels=config.labels,
        labels_like_paper=config.labels_like_paper,
        task=config.task,
        seed=config.seed,
    )


def require_possible(request: HeadProbe) -> None:
    """Raises UsageError for shares that are none, and for options that do not go together."""
    module, _, name = request.features.partition(":")
    if request.features not in FEATURES and not (module and name):
        raise UsageError(
            f"--features must be one of {', '.join(FEATURES)}, or MODULE:CLASS of other features; "
            f"received {request.features!r}."
        )
    for option, share in (("--labels", request.labels), ("--labels-like-paper", request.labels_like_paper)):
        if share is not None and not 0 < share <= 1:
            raise UsageError(f"{option} must be a share above 0 and up to 1; received {share}.")
    if request.head == "own" and (request.features, request.labels, request.labels_like_paper) != ("model", 1.0, None):
        raise UsageError(
            "--head own is of a model as it was trained, with the labels that it had then; leave out --features, "
            "--labels and --labels-like-paper."
        )
    if request.head == "own" and request.preset == "grid":
        raise UsageError("--head own learns nothing, so it has no grid; use --preset released or thesis.")
    if request.labels_like_paper is None:
        return
    if request.labels < 1:
        raise UsageError("--labels and --labels-like-paper are two ways to choose few labels; give one of them.")
    if PROTOCOLS[request.preset].train_windows == "mean":
        raise UsageError(
            f"--labels-like-paper chooses among the chunks of clips, and the preset {request.preset} learns from means "
            "of whole clips; use --labels, or the preset thesis or released."
        )
