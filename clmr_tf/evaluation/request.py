"""What is asked of an evaluation by a head."""

import dataclasses
from pathlib import Path

from clmr_tf.errors import UsageError
from clmr_tf.evaluation.protocols import PROTOCOLS
from clmr_tf.probe_config import ProbeConfig

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
