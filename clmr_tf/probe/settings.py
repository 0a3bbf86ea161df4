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
    """Model folder written by `python -m clmr_tf.export`. Default: the demo model of a checkout."""
    corpus: str = "demo"
    """Corpus with tags and three splits: "demo", or the folder of a prepared one, such as
    `python -m pipelines.folder MUSIC --out corpora/mine --tags folder --test-share 0.2` makes."""
    corpora: Path = Path("corpora")
    """Folder for prepared corpora."""
    out: Path | None = None
    """JSON file for the result. Default: in the model folder, probe-NAME-OF-CORPUS.json, or with the presets that
    train a head evaluation-....json, named by corpus and options. A result in the model folder is also added to the
    manifest and the model card."""
    seed: int = 42
    """Seed of everything random: crops, few labels, heads, untrained weights. The quick preset uses this seed and
    the next two for its three untrained encoders."""
    preset: Literal["quick", "released", "thesis", "grid"] = "quick"
    """Protocol. "quick": logistic regression on all windows, compared with untrained encoders and a majority guess. The
    others train a head: "released" as CLMR's released code, "thesis" as the thesis, "grid" the best on the validation
    split of JukeMIR's 216 settings."""
    head: Literal["linear", "mlp", "own"] = "linear"
    """"linear": one layer. "mlp": one hidden layer of 512 units. "own": no training, the classifier of a model that was
    trained with labels. "grid" tries the first two, "quick" ignores this."""
    features: str = "model"
    """Input of the head: "model"; "untrained", the same architecture with random weights; "mel", mean and standard
    deviation of a log-mel spectrogram; "majority", tag frequencies only; or MODULE:CLASS, such as
    pipelines.musicnn:MusicnnFeatures."""
    labels: float = 1.0
    """Fraction of the songs of the train split whose labels may be used; smaller ones are subsets of larger ones."""
    labels_like_paper: float | None = None
    """Fraction of labels chosen as in the original code instead: of the 2.7 s chunks of every combination of tags, at
    least one."""
    task: str | None = None
    """Name of a task of the corpus, if it has several sets of labels. Default: the tags of the corpus itself."""
    features_cache: Path = Path("features")
    """Folder for computed features, and for the progress of an interrupted grid."""

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
