"""The result files that `python -m clmr_tf.probe` writes with a trained head: found, read and checked."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clmr_tf.errors import UsageError
from clmr_tf.reporting.trainings import Training, training_of

PATTERN = "evaluation-*.json"
READS_FORMAT_VERSION = 1
# The words of `clmr_tf.evaluation.splits.choose_labels`.
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
