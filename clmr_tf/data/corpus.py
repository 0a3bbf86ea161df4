"""A prepared corpus on disk: its manifest, its items and its tasks."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from clmr_tf.errors import UsageError
from clmr_tf.files import write_atomically

SPLITS = ("train", "valid", "test")
TASK_FORMAT = 1
TASKS_FOLDER = "tasks"


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
class CorpusTask:
    """The contents of a file in the folder `tasks`: labels for some items of a corpus.

    Attributes:
        name: Lower-case letters, digits and hyphens; also the name of the file.
        description: Origin of the labels, in a sentence or two.
        tag_names: The tags, in the order of multi-hot vectors.
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
                raise ValueError(f"{item_id!r} has the tag {min(unknown)!r}, which is not in its tag_names")
            if self.single_label and len(label.tags) != 1:
                raise ValueError(f"{item_id!r} has {len(label.tags)} tags instead of one class")

    def to_json(self) -> str:
        """The text of the file, with items sorted by id."""
        fields = {"format": TASK_FORMAT, **dataclasses.asdict(self)}
        return json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "CorpusTask":
        """Reads the text of a file; raises ValueError if its format is unknown or it contradicts itself."""
        fields = json.loads(text)
        received = fields.pop("format", None) if isinstance(fields, dict) else type(fields).__name__
        if received != TASK_FORMAT:
            raise ValueError(f"format {received!r}, but this program reads {TASK_FORMAT}")
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


ItemType = TypeVar("ItemType", bound=_Item)


def labelled(items: Sequence[ItemType], task: CorpusTask) -> tuple[ItemType, ...]:
    """The items of a corpus that a task labels, with the task's splits and tags.

    Raises:
        UsageError: If the task labels an item that the corpus does not have, or puts a song in two splits.
    """
    selected = [item for item in items if item.id in task.items]
    if len(selected) < len(task.items):
        unknown = min(task.items.keys() - {item.id for item in selected})
        raise UsageError(f"The task {task.name!r} labels {unknown!r}, which is not in the corpus; make it again.")
    split_of: dict[str, str] = {}
    for item in selected:
        if split_of.setdefault(item.song_id, task.items[item.id].split) != task.items[item.id].split:
            raise UsageError(f"The task {task.name!r} has the song {item.song_id!r} in two splits; make it again.")
    return tuple(
        dataclasses.replace(item, split=task.items[item.id].split, tags=task.items[item.id].tags) for item in selected
    )


def task_names_in(corpus_folder: Path) -> tuple[str, ...]:
    """Names of the tasks of a prepared corpus, sorted."""
    return tuple(sorted(path.stem for path in (corpus_folder / TASKS_FOLDER).glob("*.json")))


def write_task(task: CorpusTask, corpus_folder: Path) -> Path:
    """Adds a task to a prepared corpus, or replaces the one of the same name. Returns the file."""
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


FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
INDEX_FILE = "index.jsonl"
PCM_FILE = "audio.pcm"
SKIPPED_FILE = "skipped.jsonl"
PCM_DTYPE = np.dtype("<i2")
PCM_FULL_SCALE = 32768.0


@dataclasses.dataclass(frozen=True)
class Item:
    """One recording of a corpus.

    Attributes:
        id: Unique name of the item, the same in every preparation.
        song_id: Shared by the items of a song, which are never in two splits or negatives of each other.
        source: Path of the source file, relative to the corpus' source folder.
        split: "train", "valid" or "test".
        tags: Names from the manifest's `tag_names`; empty if the corpus has no labels.
        file: File of the samples: "audio.pcm" relative to the corpus folder, or an absolute source path.
        offset_samples: First sample of the item in `file` (0 with storage "direct").
        num_samples: Length at the corpus' sample rate.
        digest: First 16 hex digits of the SHA-256 of the PCM bytes ("direct": of the source file).
        source_rate_hz: Sample rate of the source file.
        source_num_channels: Channels of the source file.
        source_num_bytes: Size of the source file.
        lost_seconds: Estimated duration of what could not be decoded of the source file.
    """

    id: str
    song_id: str
    source: str
    split: str
    tags: tuple[str, ...]
    file: str
    offset_samples: int
    num_samples: int
    digest: str
    source_rate_hz: int
    source_num_channels: int
    source_num_bytes: int
    lost_seconds: float = 0.0

    def to_json(self) -> str:
        """One line of index.jsonl, without the newline."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> "Item":
        """Reads one line of index.jsonl; raises ValueError if a field is missing or unknown."""
        fields = json.loads(line)
        try:
            return cls(**{**fields, "tags": tuple(fields["tags"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"not an index row of format version {FORMAT_VERSION}: {error}") from error


@dataclasses.dataclass(frozen=True)
class CorpusManifest:
    """The contents of manifest.json.

    Attributes:
        name: Short name of the corpus.
        sample_rate_hz: Sample rate of the PCM (or of the direct reader's output).
        storage: "pcm" or "direct".
        tag_names: The tags, in the order of multi-hot vectors.
        num_items: Items per split.
        num_songs: Songs per split.
        num_skipped: Skipped files per reason.
        source: Free-form description of the origin of the files.
        tool_versions: Versions of the libraries that decoded and resampled.
        fingerprint: SHA-256 of index.jsonl, which includes a digest of every item's audio.
        format_version: Version of this format.
    """

    name: str
    sample_rate_hz: int
    storage: str
    tag_names: tuple[str, ...]
    num_items: Mapping[str, int]
    num_songs: Mapping[str, int]
    num_skipped: Mapping[str, int]
    source: Mapping[str, str]
    tool_versions: Mapping[str, str]
    fingerprint: str
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """The text of manifest.json."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "CorpusManifest":
        """Reads manifest.json; raises ValueError if its format is unknown."""
        fields = json.loads(text)
        if not isinstance(fields, dict) or fields.get("format_version") != FORMAT_VERSION:
            received = fields.get("format_version") if isinstance(fields, dict) else type(fields).__name__
            raise ValueError(f"format version {received!r}, but this program reads {FORMAT_VERSION}")
        try:
            return cls(**{**fields, "tag_names": tuple(fields["tag_names"])})
        except (TypeError, KeyError) as error:
            raise ValueError(str(error)) from error


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A prepared corpus on disk, with its index in memory.

    Attributes:
        folder: Folder of the corpus.
        manifest: Manifest of these items.
        items: Items in the order of the index.
        task: The task selected by `for_task`; None for the corpus's own labels and splits.
    """

    folder: Path
    manifest: CorpusManifest
    items: tuple[Item, ...]
    task: CorpusTask | None = None

    @classmethod
    def open(cls, folder: Path | str) -> "Corpus":
        """Opens a prepared corpus and checks that its files are consistent.

        Raises:
            UsageError: If the folder is not a finished corpus, or index, manifest and audio disagree.
        """
        folder = Path(folder)
        manifest_path = folder / MANIFEST_FILE
        if not manifest_path.is_file():
            raise UsageError(f"{folder} is not a prepared corpus (no {MANIFEST_FILE}); prepare it first.")
        try:
            manifest = CorpusManifest.from_json(manifest_path.read_text(encoding="utf-8"))
            index = (folder / INDEX_FILE).read_bytes()
            items = tuple(Item.from_json(line) for line in index.decode("utf-8").splitlines())
        except (OSError, ValueError) as error:
            raise UsageError(f"The corpus in {folder} cannot be read ({error}); prepare it again.") from error
        if fingerprint_of(index) != manifest.fingerprint:
            raise UsageError(f"{folder / INDEX_FILE} was changed after the corpus was prepared; prepare it again.")
        corpus = cls(folder, manifest, items)
        if manifest.storage == "pcm":
            corpus._check_pcm_size()
        return corpus

    def for_task(self, name: str) -> "Corpus":
        """The same audio with the labels and splits of a task, without items that the task does not label.

        The fingerprint is that of the index and the task together.

        Args:
            name: One of `task_names_in(folder)`.

        Raises:
            UsageError: If there is no such task, or it does not match this corpus.
        """
        if self.task is not None:
            return Corpus.open(self.folder).for_task(name)
        task, task_sha256 = read_task(name, self.folder)
        items = labelled(self.items, task)
        num_items, num_songs = count_by_split(items)
        manifest = dataclasses.replace(
            self.manifest,
            tag_names=task.tag_names,
            num_items=num_items,
            num_songs=num_songs,
            source={**self.manifest.source, "task": name},
            fingerprint=fingerprint_of(f"{self.manifest.fingerprint} {task_sha256}".encode("ascii")),
        )
        return Corpus(self.folder, manifest, items, task)

    def _check_pcm_size(self) -> None:
        expected = sum(item.num_samples for item in self.items) * PCM_DTYPE.itemsize
        path = self.folder / PCM_FILE
        received = path.stat().st_size if path.is_file() else 0
        if received != expected:
            raise UsageError(f"{path} has {received} bytes instead of {expected}; prepare the corpus again.")

    def items_of(self, split: str) -> tuple[Item, ...]:
        """The items of one split, in the order of the index."""
        return tuple(item for item in self.items if item.split == split)

    def multi_hot(self, items: Sequence[Item]) -> np.ndarray:
        """Tags of `items` as float32 [len(items), len(tag_names)], 1 where the item has the tag."""
        column = {name: index for index, name in enumerate(self.manifest.tag_names)}
        tags = np.zeros((len(items), len(column)), np.float32)
        for row, item in enumerate(items):
            for name in item.tags:
                tags[row, column[name]] = 1.0
        return tags

    def read_samples(self, item: Item, offset_samples: int = 0, num_samples: int | None = None) -> np.ndarray:
        """Reads float32 samples in [-1, 1) of an item of a "pcm" corpus, outside of any graph.

        Args:
            item: An item of this corpus.
            offset_samples: First sample, counted from the start of the item.
            num_samples: Number of samples; None reads to the end of the item.
        """
        num_samples = item.num_samples - offset_samples if num_samples is None else num_samples
        start = (item.offset_samples + offset_samples) * PCM_DTYPE.itemsize
        pcm = np.fromfile(self.folder / PCM_FILE, PCM_DTYPE, num_samples, offset=start)
        return pcm.astype(np.float32) / PCM_FULL_SCALE


def fingerprint_of(index: bytes) -> str:
    """The fingerprint of a corpus: SHA-256 of its index, which includes a digest of every item's audio."""
    return hashlib.sha256(index).hexdigest()


def count_by_split(items: Iterable[Item]) -> tuple[dict[str, int], dict[str, int]]:
    """Number of items and of songs in each split that is not empty."""
    songs: dict[str, list[str]] = {}
    for item in items:
        songs.setdefault(item.split, []).append(item.song_id)
    ordered = [split for split in SPLITS if split in songs]
    return {s: len(songs[s]) for s in ordered}, {s: len(set(songs[s])) for s in ordered}
