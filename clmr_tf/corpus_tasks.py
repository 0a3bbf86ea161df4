"""Tasks: several labelings of one prepared corpus, each a file beside its audio.

    tasks/NAME.json     {"format": 1, "name", "description", "tag_names", "single_label",
                         "items": {item id: {"split", "tags"}}}

An item that a task does not name has no part in it. `Corpus.for_task` opens one.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from clmr_tf.errors import UsageError
from clmr_tf.files import write_atomically

SPLITS = ("train", "valid", "test")
TASK_FORMAT = 1
TASKS_FOLDER = "tasks"


@dataclasses.dataclass(frozen=True)
class Label:
    """What a task says about one item.

    Attributes:
        split: "train", "valid" or "test"; it may be another one than the corpus has for the item.
        tags: Names out of the task's `tag_names`.
    """

    split: str
    tags: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class CorpusTask:
    """What one file of the folder `tasks` holds.

    Attributes:
        name: Lower-case letters, digits and hyphens; the file is called like it.
        description: Where the labels come from, in a sentence or two.
        tag_names: The tags in the order of every multi-hot vector.
        single_label: Whether every item has exactly one tag, its class.
        items: The labelled items by id.
    """

    name: str
    description: str
    tag_names: tuple[str, ...]
    single_label: bool
    items: Mapping[str, Label]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name):
            raise ValueError(f"a task cannot be called {self.name!r}")
        if not self.items:
            raise ValueError("it labels no item")
        known = set(self.tag_names)
        if len(known) != len(self.tag_names):
            raise ValueError("a tag name occurs twice")
        for item_id, label in self.items.items():
            if label.split not in SPLITS:
                raise ValueError(f"{item_id!r} is in the split {label.split!r}; there are only {list(SPLITS)}")
            if unknown := set(label.tags) - known:
                raise ValueError(f"{item_id!r} has the tag {min(unknown)!r}, which it does not name")
            if self.single_label and len(label.tags) != 1:
                raise ValueError(f"{item_id!r} has {len(label.tags)} tags instead of one class")

    def to_json(self) -> str:
        """The text of the file; items in the order of their ids."""
        fields = {"format": TASK_FORMAT, **dataclasses.asdict(self)}
        return json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "CorpusTask":
        """Reads the text of a file; raises ValueError where it is of another format or contradicts itself."""
        fields = json.loads(text)
        received = fields.pop("format", None) if isinstance(fields, dict) else type(fields).__name__
        if received != TASK_FORMAT:
            raise ValueError(f"format {received!r}, this program reads {TASK_FORMAT}")
        try:
            items = {
                item_id: Label(**{**label, "tags": tuple(label["tags"])}) for item_id, label in fields["items"].items()
            }
            return cls(**{**fields, "tag_names": tuple(fields["tag_names"]), "items": items})
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a task: {error}") from error


class _Item(Protocol):
    id: str
    song_id: str


Item = TypeVar("Item", bound=_Item)


def labelled(items: Sequence[Item], task: CorpusTask) -> tuple[Item, ...]:
    """The items of a corpus that a task names, with its splits and tags.

    Raises:
        UsageError: If the task names an item that the corpus does not have, or separates a song.
    """
    chosen = [item for item in items if item.id in task.items]
    if len(chosen) < len(task.items):
        unknown = min(task.items.keys() - {item.id for item in chosen})
        raise UsageError(f"The task {task.name!r} labels {unknown!r}, which the corpus does not hold; make it again.")
    split_of: dict[str, str] = {}
    for item in chosen:
        if split_of.setdefault(item.song_id, task.items[item.id].split) != task.items[item.id].split:
            raise UsageError(f"The task {task.name!r} has the song {item.song_id!r} in two splits; make it again.")
    return tuple(
        dataclasses.replace(item, split=task.items[item.id].split, tags=task.items[item.id].tags) for item in chosen
    )


def task_names_in(corpus_folder: Path) -> tuple[str, ...]:
    """Names of the tasks of a prepared corpus, sorted."""
    return tuple(sorted(path.stem for path in (corpus_folder / TASKS_FOLDER).glob("*.json")))


def write_task(task: CorpusTask, corpus_folder: Path) -> Path:
    """Puts a task beside a prepared corpus, in place of one of the same name. Returns the file."""
    path = corpus_folder / TASKS_FOLDER / f"{task.name}.json"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, task.to_json())
    return path


def read_task(name: str, corpus_folder: Path) -> tuple[CorpusTask, str]:
    """Reads a task of a prepared corpus.

    Args:
        name: One of `task_names_in`.
        corpus_folder: Folder of the corpus.

    Returns:
        The task, and the SHA-256 of its file.

    Raises:
        UsageError: If there is no such task, or its file cannot be used.
    """
    names = task_names_in(corpus_folder)
    if name not in names:
        there = f"it has {', '.join(names)}" if names else "it has none"
        raise UsageError(f"The corpus in {corpus_folder} has no task {name!r}; {there}.")
    path = corpus_folder / TASKS_FOLDER / f"{name}.json"
    try:
        content = path.read_bytes()
        task = CorpusTask.from_json(content.decode("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be used as a task ({error}); make it again.") from error
    if task.name != name:
        raise UsageError(f"{path} is the task {task.name!r} under another name; rename the file.")
    return task, hashlib.sha256(content).hexdigest()
