"""Tasks of a corpus: other labels and splits for some of its items, in tasks/NAME.parquet."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clmr_tf.data.index import ROWS_PER_GROUP, SPLITS, parquet_writer, tag_arrays
from clmr_tf.errors import UsageError
from clmr_tf.files import replaced_file

TASKS_FOLDER = "tasks"
_FORMAT_VERSION = 2
_FIELDS = {"id": pa.string(), "split": pa.int8(), "tags": pa.list_(pa.int32())}
_METADATA = b"task"


@dataclasses.dataclass(frozen=True)
class Label:
    """The label of one item in a task.

    Attributes:
        split: "train", "valid" or "test"; may differ from the item's split in the corpus.
        tags: Names from the task's `tag_names`.
    """

    split: str
    tags: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class TaskDescription:
    """What a task is, without its labels.

    Attributes:
        name: Lower-case letters, digits and hyphens; also the name of the file.
        description: Origin of the labels, in a sentence or two.
        tag_names: The tags, in the order of multi-hot vectors.
        single_label: Whether every item has exactly one tag, its class.
    """

    name: str
    description: str
    tag_names: tuple[str, ...]
    single_label: bool


@dataclasses.dataclass(frozen=True)
class CorpusTask(TaskDescription):
    """A task with its labels, for `write_task`.

    Attributes:
        items: The labelled items by id.
    """

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
                raise ValueError(f"{item_id!r} has the tag {min(unknown)!r}, which is not in its tag_names")
            if self.single_label and len(label.tags) != 1:
                raise ValueError(f"{item_id!r} has {len(label.tags)} tags instead of one class")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the task as text, the same for every version of the Parquet library."""
        # The text of a task in the first format of corpora, so that a converted corpus keeps its fingerprints.
        fields = {"format": 1, **dataclasses.asdict(self)}
        text = json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        return hashlib.sha256(text.encode("utf-8")).hexdigest()


def task_names_in(corpus_folder: Path) -> tuple[str, ...]:
    """Names of the tasks of a prepared corpus, sorted."""
    return tuple(sorted(path.stem for path in (corpus_folder / TASKS_FOLDER).glob("*.parquet")))


def write_task(task: CorpusTask, corpus_folder: Path) -> Path:
    """Adds a task to a prepared corpus, or replaces the one of the same name. Returns the file."""
    path = corpus_folder / TASKS_FOLDER / f"{task.name}.parquet"
    path.parent.mkdir(exist_ok=True)
    codes = {name: code for code, name in enumerate(task.tag_names)}
    labels = [(item_id, task.items[item_id]) for item_id in sorted(task.items)]
    columns = {
        "id": [item_id for item_id, _ in labels],
        "split": [SPLITS.index(label.split) for _, label in labels],
        "tags": [[codes[name] for name in label.tags] for _, label in labels],
    }
    table = pa.table(columns, schema=pa.schema(list(_FIELDS.items())))
    described = {
        "format_version": _FORMAT_VERSION,
        "description": task.description,
        "tag_names": task.tag_names,
        "single_label": task.single_label,
        "fingerprint": task.fingerprint,
        "labels_sha256": _digest(table),
    }
    schema = table.schema.with_metadata({_METADATA: json.dumps(described), "splits": json.dumps(SPLITS)})
    with replaced_file(path) as file, parquet_writer(file, schema) as writer:
        writer.write_table(table.cast(schema), ROWS_PER_GROUP)
    return path


def read_task(name: str, corpus_folder: Path) -> tuple[TaskDescription, pa.Table, str]:
    """Reads a task of a prepared corpus.

    Args:
        name: One of `task_names_in`.
        corpus_folder: Folder of the corpus.

    Returns:
        What it is; its labels with the columns id, split and tags, the latter two as numbers; and its fingerprint.

    Raises:
        UsageError: If there is no such task, or its file cannot be used.
    """
    names = task_names_in(corpus_folder)
    if name not in names:
        there = f"it has {', '.join(names)}" if names else "it has none"
        raise UsageError(f"The corpus in {corpus_folder} has no task {name!r}; {there}.")
    path = corpus_folder / TASKS_FOLDER / f"{name}.parquet"
    try:
        table = pq.read_table(path)
        described = _described(table)
        task = TaskDescription(name, described["description"], tuple(described["tag_names"]), described["single_label"])
        return task, table, described["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} cannot be used as a task ({error}); make it again.") from error


def _described(table: pa.Table) -> dict[str, Any]:
    described = json.loads((table.schema.metadata or {}).get(_METADATA, b"{}"))
    if described.get("format_version") != _FORMAT_VERSION:
        raise ValueError(f"format {described.get('format_version')!r}, but this program reads {_FORMAT_VERSION}")
    if table.schema.names != list(_FIELDS) or table.schema.types != list(_FIELDS.values()):
        raise ValueError("it has other columns than a task")
    # Other programs keep these metadata when they change the rows.
    if _digest(table) != described["labels_sha256"]:
        raise ValueError("its labels were changed")
    return described


def _digest(table: pa.Table) -> str:
    """SHA-256 of the labels, whatever their row groups."""
    digest = hashlib.sha256()
    for begin in range(0, len(table), ROWS_PER_GROUP):
        group = table.slice(begin, ROWS_PER_GROUP)
        tag_codes, begins = tag_arrays(group["tags"])
        for array in (group["split"].to_numpy(), tag_codes, begins):
            digest.update(array.tobytes())
        digest.update(json.dumps(group["id"].to_pylist()).encode("ascii"))
    return digest.hexdigest()
