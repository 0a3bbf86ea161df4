"""Result files as rows of tables."""

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

MANIFEST_FILE = "manifest.json"
# What a training says elsewhere, or what does not decide what it computes.
_SAID_ELSEWHERE = CHANGEABLE_ON_RESUME | {"seed", "corpus", "objective", "augmentation", "augmentation_changes"}
# Of a model with a head of its own, whose results say which labels they are of as every result does.
LABEL_SETTINGS = frozenset({"labels", "labels_like_paper"})


@dataclasses.dataclass(frozen=True)
class Training:
    """A training, as far as it decides what a model has learnt.

    Attributes:
        step: Steps of the optimizer.
        seed: Of everything drawn in it.
        objective: "contrastive" or another.
        corpus: Name of the corpus.
        corpus_fingerprint: Of the corpus.
        augmentation: Preset.
        augmentation_changes: What was changed of the preset.
        settings: The other settings that decide what is computed, as JSON data.
    """

    step: int
    seed: int
    objective: str
    corpus: str
    corpus_fingerprint: str
    augmentation: str
    augmentation_changes: tuple[str, ...]
    settings: dict[str, Any]

    @property
    def augmentation_words(self) -> str:
        """The preset with its changes."""
        return " ".join([self.augmentation, *self.augmentation_changes])

    def without_labels(self) -> "Training":
        """The same without the settings that say which labels it may use."""
        settings = {name: value for name, value in self.settings.items() if name not in LABEL_SETTINGS}
        return dataclasses.replace(self, settings=settings)

    def changed_settings(self) -> list[str]:
        """The settings that are not the defaults of the objective, each as "batch size 16"."""
        defaults = _defaults_of(self.objective)
        changed = {name: value for name, value in self.settings.items() if defaults.get(name) != value}
        words = [f"{name.replace('_', ' ')} {_plainly(value)}" for name, value in changed.items()]
        if self.augmentation_words != defaults["augmentation"]:
            words.append(f"augmentation {self.augmentation_words}")
        return words


def training_of(folder: Path, features: dict[str, Any]) -> Training | None:
    """The training of the model in a folder.

    Args:
        folder: Where a result lies.
        features: What the result says of its model.

    Returns:
        None where the folder holds no manifest of this model, or one without the settings of its training.
    """
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_bytes().decode("utf-8"))
        config, run = manifest["training"]["config"], manifest["training"]["run"]
        step, architecture = manifest["training"]["step"], manifest["architecture"]["arguments"]
        if step != features.get("training_step") or architecture != features.get("architecture"):
            return None
        # A setting that did not exist then, or was left open, had what is now its default.
        said = {name: value for name, value in config.items() if value is not None}
        settings = {**_defaults_of(config["objective"]), **said}
        return Training(
            step=step,
            seed=settings["seed"],
            objective=settings["objective"],
            corpus=run["corpus"]["name"],
            corpus_fingerprint=run["corpus"]["fingerprint"],
            augmentation=settings["augmentation"],
            augmentation_changes=tuple(settings["augmentation_changes"]),
            settings={name: value for name, value in sorted(settings.items()) if name not in _SAID_ELSEWHERE},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # Some corpora and other programs have a file of that name, too.
        return None


def _defaults_of(objective: str) -> dict[str, Any]:
    return {**to_json(TrainConfig()), **OBJECTIVE_DEFAULTS.get(objective, {})}


def _plainly(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


PATTERN = "evaluation-*.json"
READS_FORMAT_VERSION = 1
# The words of `clmr_tf.data.labels.choose_labels`.
_LABEL_CHOICES = {
    "all": "all",
    "share of the songs": "songs",
    "share of the examples of each combination of tags, at least one": "like-paper",
}
_SPLITS = ("valid", "test")
_PERCENTILES = [2.5, 97.5]


@dataclasses.dataclass(frozen=True)
class Result:
    """One evaluation.

    Attributes:
        file: Its path below the folder that was read, with slashes.
        corpus: Name of the corpus.
        corpus_fingerprint: Of its audio and its index.
        task: Name of the labeling; None for the corpus' own tags.
        task_fingerprint: None for the corpus' own tags.
        tag_names: Of the labeling, in its order.
        single_label: Whether every clip has one tag, so that there is an accuracy.
        preset: Name of the protocol.
        protocol: Every number of it.
        features: What was learnt from; `kind` says which.
        head: "linear", "mlp", "grid" (the best of one), "own" (trained with the encoder), or "none" (majority).
        objective: What a model with a head of its own was trained for; None for the others.
        label_choice: "all", "songs" (a share of them) or "like-paper" (a share of every combination of tags).
        label_share: In (0, 1].
        label_counts: The entry `labels` as written.
        seed: Of everything drawn in the evaluation.
        scores: By split, "valid" and "test".
        training: How the model was trained, of one with its own head without which labels; None where that is not
            known or there is no model.
    """

    file: str
    corpus: str
    corpus_fingerprint: str
    task: str | None
    task_fingerprint: str | None
    tag_names: tuple[str, ...]
    single_label: bool
    preset: str
    protocol: dict[str, Any]
    features: dict[str, Any]
    head: str
    objective: str | None
    label_choice: str
    label_share: float
    label_counts: dict[str, Any]
    seed: int
    scores: dict[str, dict[str, Any]]
    training: Training | None

    @property
    def kind(self) -> str:
        """What was learnt from: "model", "untrained", "mel", "majority" or another."""
        return self.features["kind"]


@dataclasses.dataclass(frozen=True)
class SkippedFile:
    """A file that is no result, and why: the end of a sentence that begins with its name."""

    file: str
    reason: str


def read_results(folder: Path) -> tuple[list[Result], list[SkippedFile]]:
    """Reads every evaluation-*.json below a folder, with the manifest.json of the model folders they lie in.

    Returns:
        The results, and the files that are none, both in the order of their paths.

    Raises:
        UsageError: If there is no such folder, or not one result in it.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}; give --results the folder with the results of clmr_tf.probe.")
    results, skipped = [], []
    for path in sorted(folder.rglob(PATTERN)):
        file = path.relative_to(folder).as_posix()
        try:
            results.append(read_result(path, file))
        except (OSError, ValueError) as error:
            reason = f"cannot be read: {error.strerror or error}" if isinstance(error, OSError) else str(error)
            skipped.append(SkippedFile(file, reason))
    if results:
        return results, skipped
    if skipped:
        raise UsageError(
            f"No {PATTERN} in {folder} is a result; the first, {skipped[0].file}, {skipped[0].reason}. Evaluate again "
            "with this version's `python -m clmr_tf.probe`."
        )
    raise UsageError(
        f"There is no {PATTERN} in {folder}; write one with `python -m clmr_tf.probe --preset released`, or give "
        "another --results."
    )


def read_result(path: Path, file: str) -> Result:
    """Reads one file; `file` is what the result calls it.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no result; the message continues a sentence that begins with its name.
    """
    try:
        plain = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError("is not JSON") from error
    if not isinstance(plain, dict) or "format_version" not in plain or "scores" not in plain:
        raise ValueError("is JSON, but no result of an evaluation")
    if plain["format_version"] != READS_FORMAT_VERSION:
        raise ValueError(f"is of format version {plain['format_version']}; this program reads {READS_FORMAT_VERSION}")
    features, protocol = _entry(plain, "features", dict), _entry(plain, "protocol", dict)
    kind, tag_names = _entry(plain, "features.kind", str), tuple(_entry(plain, "corpus.tag_names", list))
    if not all(isinstance(name, str) for name in tag_names):
        raise ValueError("is no whole result: `corpus.tag_names` is not a list of names")
    single_label, task = _entry(plain, "single_label", bool), plain.get("task")
    if _entry(plain, "protocol.interval.percentiles", list) != _PERCENTILES:
        raise ValueError(f"has intervals that are not between the percentiles {_PERCENTILES}")
    _entry(plain, "protocol.interval.num_resamplings", int)
    words, share = _entry(plain, "labels.choice", str), _entry(plain, "labels.share", int | float)
    if words not in _LABEL_CHOICES:
        raise ValueError(f"has an unknown choice of labels, {words!r}")
    if not 0 < share <= 1:
        raise ValueError(f"has labels of the share {share}, which is none")
    for name in ("num_songs", "num_clips", "num_examples"):
        _entry(plain, f"labels.{name}", int)
        _entry(plain, f"labels.of.{name}", int)
    _entry(plain, "labels.tags_without_positives", list)
    for split in _SPLITS:
        _check_scores(plain, f"scores.{split}", tag_names, single_label)
    head = _head_of(plain, kind)
    training = None
    if kind in ("model", "untrained"):
        _entry(plain, "features.architecture", dict)
    if kind == "model":
        _entry(plain, "features.model_hash", str)
        _entry(plain, "features.training_step", int)
        training = training_of(path.parent, features)
    if training is not None and head == "own":
        training = training.without_labels()
    return Result(
        file=file,
        corpus=_entry(plain, "corpus.name", str),
        corpus_fingerprint=_entry(plain, "corpus.fingerprint", str),
        task=None if task is None else _entry(plain, "task.name", str),
        task_fingerprint=None if task is None else _entry(plain, "task.fingerprint", str),
        tag_names=tag_names,
        single_label=single_label,
        preset=_entry(plain, "preset", str),
        protocol=protocol,
        features=features,
        head=head,
        objective=_entry(plain, "objective", str) if head == "own" else None,
        label_choice=_LABEL_CHOICES[words],
        label_share=float(share),
        label_counts=plain["labels"],
        seed=_entry(plain, "seed", int),
        scores={split: plain["scores"][split] for split in _SPLITS},
        training=training,
    )


def _head_of(plain: dict[str, Any], kind: str) -> str:
    if kind == "majority":
        return "none"
    if plain.get("head") == "own":
        return "own"
    if plain.get("preset") == "grid":
        return "grid"
    return "mlp" if _entry(plain, "protocol.head.hidden_units", int) else "linear"


def _entry(plain: dict[str, Any], path: str, kind: Any) -> Any:
    """The value at `path`, names joined by points; ValueError if it is not there or not of `kind`."""
    value: Any = plain
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"is no whole result: `{path}` is missing or of a wrong type")
    return value


def _check_scores(plain: dict[str, Any], path: str, tag_names: Sequence[str], single_label: bool) -> None:
    for name in ("num_songs", "num_clips"):
        _entry(plain, f"{path}.{name}", int)
    for name in ("tags_without_positives", "tags_without_negatives"):
        _entry(plain, f"{path}.{name}", list)
    averages = [f"{path}.{metric}.over_tags" for metric in ("roc_auc", "average_precision")]
    for average in [*averages, *([f"{path}.accuracy"] if single_label else [])]:
        found = _entry(plain, average, dict)
        interval = found.get("interval")
        if not _is_score(found.get("mean")) or not (
            interval is None or (isinstance(interval, list) and len(interval) == 2 and all(map(_is_share, interval)))
        ):
            raise ValueError(f"is no whole result: `{average}` is no score with an interval")
    for metric in ("roc_auc", "average_precision"):
        per_tag = _entry(plain, f"{path}.{metric}.per_tag", dict)
        if set(per_tag) != set(tag_names) or not all(map(_is_score, per_tag.values())):
            raise ValueError(f"is no whole result: `{path}.{metric}.per_tag` is not a score for each tag")


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_score(value: Any) -> bool:
    return value is None or _is_share(value)


METRIC_NAMES = {"accuracy": "accuracy", "roc_auc": "ROC-AUC", "average_precision": "PR-AUC"}
HEAD_NAMES = {"linear": "linear", "mlp": "MLP", "grid": "grid"}
NOTHING = "-"

_KIND_NAMES = {"mel": "mel statistics", "untrained": "untrained SampleCNN", "musicnn": "musicnn features"}
_OWN_HEAD_NAMES = {
    "supervised": "SampleCNN supervised",
    "finetune": "CLMR fine-tuned",
    "converted": "CLMR converted, its own head",
}


def name_of(result: Result) -> str:
    """What was evaluated: the kind of features and the head on them, such as "CLMR linear"."""
    if result.head == "own":
        return _OWN_HEAD_NAMES.get(result.objective, f"{result.objective}, its own head")
    if result.head == "none":
        return result.kind
    if result.kind != "model":
        return f"{_KIND_NAMES.get(result.kind, result.kind)} {HEAD_NAMES[result.head]}"
    objective = result.training.objective if result.training else "contrastive"
    base = "CLMR" if objective == "contrastive" else f"features of {_OWN_HEAD_NAMES.get(objective, objective)},"
    return f"{base} {HEAD_NAMES[result.head]}"


def protocol_words(result: Result) -> str:
    """The preset, and every number in which the result differs from what the preset is in this version."""
    words = [result.preset]
    if result.preset in PROTOCOLS:
        usual = dataclasses.asdict(PROTOCOLS[result.preset])
        words += _differences(result.protocol, usual)
        head = result.protocol.get("head")
        if result.head in ("linear", "mlp") and isinstance(head, dict):
            # The name of the row says the first, and the kind of features decides the second.
            said = {name: head.get(name) for name in ("hidden_units", "standardise")}
            words += _differences(head, {**usual["head"], **said})
    return ", ".join(words)


def training_words(result: Result) -> str:
    """On what a model was trained, and each setting that is not the default."""
    if result.training is None:
        architecture = result.features.get("architecture")
        return f"width {architecture.get('width')}" if isinstance(architecture, dict) else ""
    return ", ".join([f"on {result.training.corpus}", *result.training.changed_settings()])


def label_words(results: Sequence[Result]) -> str:
    """Which labels were used, and how many, of results that differ in their seeds."""
    counts = [result.label_counts for result in results]
    of, first = counts[0]["of"], results[0]
    songs = numbers(count["num_songs"] for count in counts)
    if first.label_choice == "all":
        words = f"all ({songs} songs)"
    elif first.label_choice == "songs":
        words = f"{share_words(first.label_share)} of the songs ({songs} of {of['num_songs']:,})"
    else:
        examples = numbers(count["num_examples"] for count in counts)
        words = (
            f"{share_words(first.label_share)} like the paper ({examples} of {of['num_examples']:,} examples, of "
            f"{songs} of {of['num_songs']:,} songs)"
        )
    unseen = [len(count["tags_without_positives"]) for count in counts]
    return f"{words}, {numbers(unseen)} of {len(first.tag_names)} tags unseen" if any(unseen) else words


def share_words(share: float) -> str:
    """0.015 as "1.5 %"."""
    return f"{100 * share:g} %"


def numbers(values: Sequence[int]) -> str:
    """One number, or the smallest and the largest."""
    low, *_, high = sorted([*values] * 2)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def value_words(value: float | None) -> str:
    """A score with three digits."""
    return NOTHING if value is None else f"{value:.3f}"


def interval_words(interval: tuple[float, float] | None) -> str:
    """Both ends with three digits."""
    return NOTHING if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _differences(found: dict[str, Any], usual: dict[str, Any]) -> list[str]:
    names = [name for name in usual if name not in ("name", "differs", "head") and found.get(name) != usual[name]]
    return [f"{name.replace('_', ' ')} {found.get(name)}" for name in names]


_ORDER = ("majority", "mel statistics", "untrained SampleCNN", "SampleCNN supervised", "CLMR", "CLMR fine-tuned")
_LABEL_ORDER = ("all", "songs", "like-paper")


@dataclasses.dataclass(frozen=True)
class Score:
    """A score of a row.

    Attributes:
        mean: Over the seeds; None where a seed has none.
        interval: 95 %; of several seeds the means of their ends.
        spread: Standard deviation over the seeds; None for a single one.
    """

    mean: float | None
    interval: tuple[float, float] | None
    spread: float | None


@dataclasses.dataclass(frozen=True)
class Row:
    """Results of one thing, one for each seed."""

    results: tuple[Result, ...]

    @property
    def first(self) -> Result:
        """A result that stands for all, where they do not differ."""
        return self.results[0]

    @property
    def name(self) -> str:
        """What was evaluated, such as "CLMR linear"."""
        return name_of(self.first)

    @property
    def metric(self) -> str:
        """The metric that the row is judged by: accuracy of single labels, else average precision."""
        return "accuracy" if self.first.single_label else "average_precision"

    def score(self, metric: str, split: str = "test") -> Score:
        """The score by "accuracy", or the macro average over tags of "roc_auc" or "average_precision"."""
        scores = [result.scores[split][metric] for result in self.results]
        scores = scores if metric == "accuracy" else [score["over_tags"] for score in scores]
        means, intervals = [score["mean"] for score in scores], [score["interval"] for score in scores]
        return Score(
            mean=None if None in means else statistics.fmean(means),
            interval=None
            if None in intervals
            else (statistics.fmean(low for low, _ in intervals), statistics.fmean(high for _, high in intervals)),
            spread=None if None in means or len(means) == 1 else statistics.stdev(means),
        )

    def per_tag(self, metric: str) -> dict[str, float | None]:
        """The score of each tag on the test split, the mean over the seeds; None where it cannot be scored."""
        each = [result.scores["test"][metric]["per_tag"] for result in self.results]
        return {
            tag: None if any(one[tag] is None for one in each) else statistics.fmean(one[tag] for one in each)
            for tag in self.first.tag_names
        }

    def seeds(self) -> str:
        """The seeds of the evaluations; of a model that of its training before it, with a slash between."""
        pairs = [
            f"{result.training.seed}/{result.seed}" if result.training else str(result.seed) for result in self.results
        ]
        return ", ".join(dict.fromkeys(pairs))


def rows_of(results: Iterable[Result]) -> tuple[list[Row], list[str]]:
    """Puts results of one corpus and task into rows, in the order of the tables.

    Returns:
        The rows, and sentences about files that repeat another or contradict it.
    """
    groups: dict[str, list[dict[Any, Result]]] = {}
    remarks = []
    for result in results:
        seeds = (result.training.seed if result.training else None, result.seed)
        by_seeds = groups.setdefault(identity(result), [{}])
        same = [one[seeds] for one in by_seeds if seeds in one]
        copied = [one.file for one in same if one.scores == result.scores]
        if copied:
            remarks.append(f"`{result.file}` is the same result as `{copied[0]}` and counts once.")
            continue
        if same:
            remarks.append(
                f"`{result.file}` has the settings and seeds of `{same[0].file}` but other scores; it is a row of "
                "its own. Different versions of the packages may be why."
            )
        if len(same) == len(by_seeds):
            by_seeds.append({})
        by_seeds[len(same)][seeds] = result
    rows = [
        Row(tuple(result for _, result in sorted(by_seeds.items()))) for group in groups.values() for by_seeds in group
    ]
    return sorted(rows, key=_place_of), remarks


def identity(result: Result, *, without_labels: bool = False, without_augmentation: bool = False) -> str:
    """Text that is the same for results that differ in their seeds only, or in what is left out as well."""
    facts: dict[str, Any] = {"name": name_of(result), "preset": result.preset, "protocol": _protocol_of(result)}
    if not without_labels:
        facts["labels"] = [result.label_choice, result.label_share]
    training, features = result.training, result.features
    if result.kind != "model":
        drawn = {"seed", "model_hash", "model"}
        facts["features"] = {name: value for name, value in features.items() if name not in drawn}
    elif training is None:
        facts["features"] = [features["model_hash"], features["training_step"]]
    else:
        has_own_head = result.head == "own"
        facts["features"] = {
            "architecture": features.get("architecture"),
            # With an end of its own, which depends on the seed and on the labels.
            "step": None if has_own_head else training.step,
            "objective": training.objective,
            "corpus": training.corpus_fingerprint,
            "augmentation": None if without_augmentation else training.augmentation_words,
            "settings": training.settings,
        }
    return json.dumps(facts, sort_keys=True)


def distinct_names(rows: Sequence[Row]) -> list[str]:
    """The names of rows; those that are not alone with theirs say what sets them apart, at last by a number."""
    names = [row.name for row in rows]
    for words in (protocol_words, _steps_and_training):
        more = [words(row.first) for row in rows]
        alike = [{more[other] for other, same in enumerate(names) if same == name} for name in names]
        names = [
            f"{name}, {one}" if one and len(others) > 1 else name
            for name, one, others in zip(names, more, alike, strict=True)
        ]
    return [
        f"{name} ({names[: place + 1].count(name)})" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]


def _steps_and_training(result: Result) -> str:
    if result.kind != "model":
        return training_words(result)
    return f"{result.features['training_step']:,} steps, {training_words(result)}"


def _protocol_of(result: Result) -> dict[str, Any]:
    """The protocol without remarks and what the grid chose, and with a head's numbers only where it has any."""
    protocol = {name: value for name, value in result.protocol.items() if name not in ("name", "differs", "interval")}
    return {**protocol, "head": None if result.head in ("grid", "own", "none") else protocol.get("head")}


def _place_of(row: Row) -> tuple:
    result, name = row.first, row.name
    places = [place for place, known in enumerate(_ORDER) if name == known or name.startswith(f"{known} ")]
    heads = [place for place, head in enumerate(HEAD_NAMES.values()) if name.endswith(f" {head}")]
    labels = (_LABEL_ORDER.index(result.label_choice), -result.label_share)
    words = name, protocol_words(result), training_words(result), result.file
    return labels, max(places, default=len(_ORDER)), max(heads, default=0), words
