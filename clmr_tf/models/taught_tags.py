"""Tags that a person has taught with a few songs, and the file that keeps them beside a table of embeddings.

The file of the table `music` is `music.tags.json`:

    {"format_version": 1, "model_hash": SHA-256 of the weights, "tags": {
      "guitar solo": {
        "changes": [[{"path": "/music/a.mp3", "answer": "yes", "seconds": null}, ...], ...],
        "head": {"weights": [512 numbers], "bias": number} or null,
        "precision": {"estimate": 0.8, "low": 0.5, "high": 0.9, "num_marks": 7} or null}}}

`changes` has everything that was ever marked, the oldest first, and the last mark of a song or moment counts. So a
correction is one more change, and undoing is removing the last one. The probability of a tag is the sigmoid of
`weights @ embedding + bias`.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from clmr_tf.errors import UsageError
from clmr_tf.files import write_atomically
from clmr_tf.models.heads import Head

_FORMAT_VERSION = 1
TAUGHT_TAGS_SUFFIX = ".tags.json"

Answer = Literal["yes", "no", "unmarked"]


@dataclasses.dataclass(frozen=True)
class Mark:
    """What a person said of a song or a moment.

    Attributes:
        path: The song, as in the table.
        answer: Whether the tag fits; "unmarked" removes an earlier answer.
        seconds: The moment, from the start of the song; None for the whole song.
    """

    path: str
    answer: Answer
    seconds: float | None = None

    def __post_init__(self) -> None:
        is_moment = self.seconds is None or (isinstance(self.seconds, int | float) and 0 <= self.seconds < np.inf)
        if not isinstance(self.path, str) or self.answer not in get_args(Answer) or not is_moment:
            raise UsageError(
                f"A mark must have a path, an answer ({', '.join(get_args(Answer))}), and seconds that are null or at "
                f"least 0; received {self.path!r}, {self.answer!r}, {self.seconds!r}."
            )


@dataclasses.dataclass(frozen=True)
class Precision:
    """How many of the songs and moments that a tag is given to have it, estimated by cross-validation.

    Attributes:
        estimate: The fraction, in [0, 1].
        low: Lower end of its 95 % interval.
        high: Upper end.
        num_marks: Marks that the tag was given to by heads that had not seen their songs.
    """

    estimate: float
    low: float
    high: float
    num_marks: int


@dataclasses.dataclass(frozen=True)
class LinearHead:
    """A logistic regression on embeddings.

    Attributes:
        weights: float32 [512].
        bias: Added to the product.
    """

    weights: np.ndarray
    bias: float

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """Scores before the sigmoid: float32 [n, 512] -> float32 [n]."""
        return vectors @ self.weights + np.float32(self.bias)


@dataclasses.dataclass(frozen=True)
class TaughtTag:
    """A tag with all its marks.

    Attributes:
        changes: What was marked at a time, the oldest first.
        head: None if there is no song with the answer "yes".
        precision: None if it is unknown.
    """

    changes: tuple[tuple[Mark, ...], ...] = ()
    head: LinearHead | None = None
    precision: Precision | None = None

    @property
    def marks(self) -> tuple[Mark, ...]:
        """The marks that count, in the order of their songs and moments."""
        last = {
            (mark.path, -1.0 if mark.seconds is None else mark.seconds): mark for one in self.changes for mark in one
        }
        return tuple(last[place] for place in sorted(last) if last[place].answer != "unmarked")


@dataclasses.dataclass(frozen=True)
class TaughtTags:
    """All tags taught for a table.

    Attributes:
        model_hash: SHA-256 of the weights of the model that the table was made with.
        tags: By name.
    """

    model_hash: str
    tags: Mapping[str, TaughtTag] = dataclasses.field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The tags that have a head, sorted."""
        return tuple(sorted(name for name, tag in self.tags.items() if tag.head))

    @property
    def head(self) -> Head:
        """One head for all of `names`."""
        heads = [self.tags[name].head for name in self.names]
        matrix, bias = np.stack([head.weights for head in heads], axis=1), np.array([head.bias for head in heads])
        dimensions = np.zeros(len(matrix), np.float32)
        return Head(dimensions, dimensions + 1, (matrix, bias.astype(np.float32)))

    def write(self, path: Path) -> None:
        """Replaces the file in one step."""
        plain = {
            "format_version": _FORMAT_VERSION,
            "model_hash": self.model_hash,
            "tags": {
                name: {
                    "changes": [[dataclasses.asdict(mark) for mark in change] for change in tag.changes],
                    "head": tag.head and {"weights": tag.head.weights.tolist(), "bias": tag.head.bias},
                    "precision": tag.precision and dataclasses.asdict(tag.precision),
                }
                for name, tag in sorted(self.tags.items())
            },
        }
        write_atomically(path, json.dumps(plain, ensure_ascii=False) + "\n")


def file_of_table(table: Path) -> Path:
    """The file of the taught tags of a table, or that file itself."""
    table = table.absolute()
    return table if table.name.endswith(TAUGHT_TAGS_SUFFIX) else table.with_name(f"{table.name}{TAUGHT_TAGS_SUFFIX}")


def read_taught_tags(path: Path) -> TaughtTags:
    """Reads a file that `TaughtTags.write` wrote.

    Raises:
        UsageError: If it is missing, damaged, or of another version.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        if plain["format_version"] != _FORMAT_VERSION:
            raise UsageError(f"{path} is of another version of this package; use that version.")
        return TaughtTags(str(plain["model_hash"]), {name: _tag(tag) for name, tag in plain["tags"].items()})
    except OSError as error:
        raise UsageError(
            f"The taught tags {path} cannot be read ({error.strerror}); teach some with `python -m clmr_tf.teach`."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not a file of taught tags, or is damaged; restore it, or move it away.") from error


def _tag(plain: dict[str, Any]) -> TaughtTag:
    head = plain["head"]
    if head is not None:
        head = LinearHead(np.array(head["weights"], np.float32), float(head["bias"]))
        if head.weights.ndim != 1 or not np.isfinite([*head.weights, head.bias]).all():
            raise ValueError("the head is not a list of finite numbers")
    changes = tuple(tuple(Mark(**mark) for mark in change) for change in plain["changes"])
    return TaughtTag(changes, head, plain["precision"] and Precision(**plain["precision"]))
