"""Result files of `python -m clmr_tf.probe` as rows of tables."""

import dataclasses
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from clmr_tf.config.command_line import to_json
from clmr_tf.config.train import CHANGEABLE_ON_RESUME, OBJECTIVE_DEFAULTS, TrainConfig
from clmr_tf.errors import UsageError
from clmr_tf.probe.protocols import PROTOCOLS

PATTERN = "evaluation-*.json"
READS_FORMAT_VERSION = 1
METRIC_NAMES = {"accuracy": "accuracy", "roc_auc": "ROC-AUC", "average_precision": "PR-AUC"}
NOTHING = "-"

_ENTRIES = ("preset", "seed", "single_label", "corpus", "features", "protocol", "labels", "scores")
# Settings that have their own columns, or do not change what is computed.
_NOT_COMPARED = CHANGEABLE_ON_RESUME | {"seed", "corpus", "objective", "augmentation", "augmentation_changes"}
# `choice` of `clmr_tf.data.labels.choose_labels`, in the order of the tables.
_LABEL_CHOICES = {
    "all": "all",
    "fraction of the songs": "songs",
    "fraction of the examples of each combination of tags, at least one": "like-paper",
}
_HEAD_NAMES = {"linear": "linear", "mlp": "MLP", "grid": "grid"}
_KIND_NAMES = {"mel": "mel statistics", "untrained": "untrained SampleCNN", "musicnn": "musicnn features"}
_OWN_HEAD_NAMES = {
    "supervised": "SampleCNN supervised",
    "finetune": "CLMR fine-tuned",
    "converted": "CLMR converted, its own head",
}
# The order of the rows in tables, by the beginning of the name.
_ORDER = ("majority", "mel statistics", "untrained SampleCNN", "SampleCNN supervised", "CLMR", "CLMR fine-tuned")


@dataclasses.dataclass(frozen=True)
class Training:
    """How a model was trained.

    Attributes:
        step: Steps of the optimizer.
        corpus: Name and fingerprint of the corpus.
        settings: All settings of `clmr_tf.train`, resolved, as JSON data.
    """

    step: int
    corpus: dict[str, str]
    settings: dict[str, Any]

    @property
    def augmentation(self) -> str:
        """The preset with its changes."""
        return " ".join([self.settings["augmentation"], *self.settings["augmentation_changes"]])


@dataclasses.dataclass(frozen=True)
class Result:
    """One evaluation; docs/evaluation.md describes the entries of its file.

    Attributes:
        file: Path below the folder that was read, with slashes.
        head: "linear", "mlp", "grid" (the best of a grid), "own" (trained with the encoder) or "none" (majority).
        objective: What the encoder was trained for; "contrastive" if that is not known.
        task: Name of the task; None for the corpus' own tags.
        training: How the model was trained; None for baselines and models without a known training.
        preset, seed, single_label, corpus, features, protocol, labels, scores, entries: As in the file.
    """

    file: str
    head: str
    objective: str
    task: str | None
    training: Training | None
    preset: str
    seed: int
    single_label: bool
    corpus: dict[str, Any]
    features: dict[str, Any]
    protocol: dict[str, Any]
    labels: dict[str, Any]
    scores: dict[str, Any]
    entries: dict[str, Any]

    @property
    def kind(self) -> str:
        """Input of the head: "model", "untrained", "mel", "majority" or another."""
        return self.features["kind"]

    @property
    def name(self) -> str:
        """Features and head, such as "CLMR linear"."""
        # An architecture without the name of an encoder is SampleCNN.
        encoder = self.features.get("architecture", {}).get("encoder", "SampleCNN")
        return name_of(self.kind, self.head, self.objective).replace("SampleCNN", encoder)

    @property
    def labels_used(self) -> tuple[str, float]:
        """How labels were selected, "all", "songs" or "like-paper", and which fraction of them."""
        return _LABEL_CHOICES[self.labels["choice"]], self.labels["fraction"]

    @property
    def tag_names(self) -> list[str]:
        """Tags of the task."""
        return self.corpus["tag_names"]

    @property
    def training_settings(self) -> dict[str, Any]:
        """The settings that determine what the model learns, except those that have their own columns."""
        # The column of labels describes those of the head; a model with its own head was trained with the same ones.
        skipped = _NOT_COMPARED | ({"labels", "labels_like_paper"} if self.head == "own" else set())
        return {name: value for name, value in sorted(self.training.settings.items()) if name not in skipped}


def name_of(kind: str, head: str, objective: str) -> str:
    """What was evaluated: features and head, such as "CLMR linear".

    Args:
        kind: Input of the head, as in `Result.kind`.
        head: As in `Result.head`.
        objective: What the encoder was trained for.
    """
    own = _OWN_HEAD_NAMES.get(objective, f"{objective}, its own head")
    if head == "own":
        return own
    if kind == "model":
        kind = "CLMR" if objective == "contrastive" else f"features of {own},"
    return f"{_KIND_NAMES.get(kind, kind)} {_HEAD_NAMES.get(head, '')}".strip()


def read_results(folder: Path) -> list[Result]:
    """Reads every evaluation-*.json in a folder and below, with the manifest.json of their model folders.

    Raises:
        UsageError: If there is none, or a file is not a result.
    """
    results = [read_result(path, path.relative_to(folder).as_posix()) for path in sorted(folder.rglob(PATTERN))]
    if not results:
        raise UsageError(
            f"There is no {PATTERN} in {folder}; write one with `python -m clmr_tf.probe`, or give another --results."
        )
    return results


def read_result(path: Path, file: str) -> Result:
    """Reads one file; `file` is the name that the result gets. UsageError if it is not a result."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if entries["format_version"] != READS_FORMAT_VERSION:
            raise ValueError(f"its format version is {entries['format_version']}")
        training = _training_of(path.with_name("manifest.json"), entries["features"])
        result = Result(
            file=file,
            head=_head_of(entries),
            objective=entries.get("objective") or (training.settings["objective"] if training else "contrastive"),
            task=entries.get("task", {}).get("name"),
            training=training,
            **{name: entries[name] for name in _ENTRIES},
            entries=entries,
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} is not a result that this version reads ({type(error).__name__}: {error}); evaluate again with "
            "`python -m clmr_tf.probe`, or move the file away."
        ) from error
    return result


def _head_of(entries: dict[str, Any]) -> str:
    if entries["features"]["kind"] == "majority":
        return "none"
    if entries.get("head") == "own" or entries["preset"] == "grid":
        return entries.get("head", "grid")
    return "mlp" if entries["protocol"]["head"]["hidden_units"] else "linear"


def _training_of(path: Path, features: dict[str, Any]) -> Training | None:
    """The training in a manifest.json, if it is that of the model of a result."""
    if features["kind"] != "model" or not path.is_file():
        return None
    manifest = json.loads(path.read_text(encoding="utf-8"))
    training = manifest.get("training", {})
    if "config" not in training or training["step"] != features["training_step"]:
        return None
    if manifest["architecture"]["arguments"] != features["architecture"]:
        return None
    defaults = _defaults(training["config"]["objective"])
    # Settings left open have their defaults, and settings of other versions are not compared.
    known = {name: value for name, value in training["config"].items() if value is not None and name in defaults}
    return Training(training["step"], training["run"]["corpus"], defaults | known)


def _defaults(objective: str) -> dict[str, Any]:
    return {**to_json(TrainConfig()), **OBJECTIVE_DEFAULTS[objective]}


@dataclasses.dataclass(frozen=True)
class Score:
    """A score of a row.

    Attributes:
        mean: Mean over the seeds; None if one of them has no score.
        interval: The 95 % interval; for several seeds, the means of both ends.
        standard_deviation: Standard deviation over the seeds; None for a single one.
    """

    mean: float | None
    interval: tuple[float, float] | None
    standard_deviation: float | None

    def __str__(self) -> str:
        """The mean and, for several seeds, the standard deviation."""
        deviation = "" if self.standard_deviation is None else f" ± {self.standard_deviation:.3f}"
        return format_score(self.mean) + deviation

    @property
    def interval_text(self) -> str:
        """Both ends of the interval."""
        return NOTHING if self.interval is None else "{:.3f} to {:.3f}".format(*self.interval)


@dataclasses.dataclass(frozen=True)
class Row:
    """Results that differ only in their seeds."""

    results: tuple[Result, ...]

    @property
    def first(self) -> Result:
        """One of them, for everything that is the same in all of them."""
        return self.results[0]

    @property
    def name(self) -> str:
        """Features and head, such as "CLMR linear"."""
        return self.first.name

    @property
    def metric(self) -> str:
        """The main metric: accuracy for single labels, else average precision."""
        return "accuracy" if self.first.single_label else "average_precision"

    def score(self, metric: str, split: str = "test") -> Score:
        """Accuracy, or the macro average over tags of "roc_auc" or "average_precision"."""
        scores = [result.scores[split][metric] for result in self.results]
        scores = [score.get("over_tags", score) for score in scores]
        means, intervals = [score["mean"] for score in scores], [score["interval"] for score in scores]
        return Score(
            None if None in means else statistics.fmean(means),
            None if None in intervals else tuple(map(statistics.fmean, zip(*intervals, strict=True))),
            None if None in means or len(means) == 1 else statistics.stdev(means),
        )

    def per_tag(self, metric: str) -> dict[str, float | None]:
        """The score of each tag on the test split, averaged over the seeds; None if a seed has no score."""
        each = [result.scores["test"][metric]["per_tag"] for result in self.results]
        values = {tag: [one[tag] for one in each] for tag in self.first.tag_names}
        return {tag: None if None in scores else statistics.fmean(scores) for tag, scores in values.items()}

    @property
    def seeds(self) -> str:
        """Seeds of the evaluations; for models, SEED-OF-TRAINING/SEED-OF-EVALUATION."""
        return ", ".join(
            f"{result.training.settings['seed']}/{result.seed}" if result.training else str(result.seed)
            for result in self.results
        )

    @property
    def labels_text(self) -> str:
        """Which labels were used, and how many."""
        counts, (choice, fraction) = [result.labels for result in self.results], self.first.labels_used
        total, songs = counts[0]["of"], format_range(count["num_songs"] for count in counts)
        if choice == "all":
            text = f"all ({songs} songs)"
        elif choice == "songs":
            text = f"{format_percent(fraction)} of the songs ({songs} of {total['num_songs']:,})"
        else:
            examples = format_range(count["num_examples"] for count in counts)
            text = (
                f"{format_percent(fraction)} like the paper ({examples} of {total['num_examples']:,} examples, of "
                f"{songs} of {total['num_songs']:,} songs)"
            )
        unseen = [len(count["tags_without_positives"]) for count in counts]
        return f"{text}, {format_range(unseen)} of {len(self.first.tag_names)} tags unseen" if any(unseen) else text

    @property
    def protocol_text(self) -> str:
        """The preset, and every setting that differs from the preset of this version."""
        found, preset = self.first.protocol, PROTOCOLS[self.first.preset]
        differing = _differing(found, dataclasses.asdict(preset), {"name", "differs", "head"})
        if self.first.head in ("linear", "mlp"):
            # The first follows from the name of the row, the second from the kind of features, the third from the
            # validation split.
            usual = dataclasses.asdict(preset.head)
            differing += _differing(found["head"], usual, {"hidden_units", "standardise", "l2"})
        return ", ".join([self.first.preset, *differing])

    @property
    def training_text(self) -> str:
        """The corpus of the training and the settings that are not the defaults of its objective."""
        training = self.first.training
        if training is None:
            architecture = self.first.features.get("architecture")
            return f"width {architecture['width']}" if architecture else ""
        defaults, settings = _defaults(training.settings["objective"]), self.first.training_settings
        changed = [
            f"{name.replace('_', ' ')} {value}" for name, value in settings.items() if value != defaults.get(name)
        ]
        if training.augmentation != defaults["augmentation"]:
            changed.append(f"augmentation {training.augmentation}")
        return ", ".join([f"on {training.corpus['name']}", *changed])

    @property
    def steps_text(self) -> str:
        """Steps of the training."""
        steps = [result.features["training_step"] for result in self.results if result.kind == "model"]
        return format_range(steps) if steps else NOTHING


def _differing(found: dict[str, Any], usual: dict[str, Any], skipped: set[str]) -> list[str]:
    names = [name for name in usual if name not in skipped and found.get(name) != usual[name]]
    return [f"{name.replace('_', ' ')} {found.get(name)}" for name in names]


def rows_of(results: Iterable[Result]) -> tuple[list[Row], list[str]]:
    """Groups results of one corpus and task into rows, in the order of the tables.

    Returns:
        The rows, and a sentence for each file that repeats another.
    """
    groups: dict[str, list[Result]] = {}
    remarks = []
    for result in results:
        group = groups.setdefault(row_key(result), [])
        same = [other.file for other in group if (other.scores, _seeds(other)) == (result.scores, _seeds(result))]
        if same:
            remarks.append(f"`{result.file}` is the same result as `{same[0]}` and counts once.")
        else:
            group.append(result)
    return sorted((Row(tuple(sorted(group, key=_seeds))) for group in groups.values()), key=_place), remarks


def _seeds(result: Result) -> tuple[int, int]:
    return result.training.settings["seed"] if result.training else 0, result.seed


def row_key(result: Result, *without: str) -> str:
    """Text that is equal for results that differ only in their seeds.

    Args:
        result: The result.
        without: What else may differ, "labels" or "augmentation".
    """
    unnamed = {name: value for name, value in result.protocol.items() if name not in ("name", "differs", "interval")}
    has_no_fixed_head = result.head not in ("linear", "mlp") or result.preset == "standard"
    key: dict[str, Any] = {
        "name": result.name,
        "preset": result.preset,
        # With the presets grid and standard, the validation split determines the numbers of the head.
        "protocol": unnamed | ({"head": None} if has_no_fixed_head else {}),
        "labels": result.labels_used,
    }
    training, features = result.training, result.features
    if training is not None:
        # A model with its own head may stop early, at a step that depends on its seed and labels.
        key["step"] = None if result.head == "own" else training.step
        key["corpus"], key["settings"] = training.corpus["fingerprint"], result.training_settings
        key["augmentation"] = training.augmentation
    elif result.kind == "model":
        key["features"] = [features["model_hash"], features["training_step"]]
    else:
        random = ("seed", "model_hash", "model")
        key["features"] = {name: value for name, value in features.items() if name not in random}
    return json.dumps({name: value for name, value in key.items() if name not in without}, sort_keys=True)


def _place(row: Row) -> tuple:
    places = [place for place, start in enumerate(_ORDER) if f"{row.name} ".startswith(f"{start} ")]
    heads = [place for place, head in enumerate(_HEAD_NAMES.values()) if row.name.endswith(f" {head}")]
    choice, fraction = row.first.labels_used
    labels = list(_LABEL_CHOICES.values()).index(choice), -fraction
    texts = row.name, row.protocol_text, row.training_text, row.first.file
    return labels, max(places, default=len(_ORDER)), max(heads, default=0), texts


def format_score(value: float | None) -> str:
    """A score with three digits."""
    return NOTHING if value is None else f"{value:.3f}"


def format_percent(fraction: float) -> str:
    """0.015 as "1.5 %"."""
    return f"{100 * fraction:g} %"


def format_range(values: Iterable[int]) -> str:
    """One number, or the smallest and the largest."""
    ordered: Sequence[int] = sorted(values)
    low, high = f"{ordered[0]:,}", f"{ordered[-1]:,}"
    return low if low == high else f"{low} to {high}"
