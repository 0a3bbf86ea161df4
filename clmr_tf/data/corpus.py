"""A prepared corpus on disk: its manifest, its index and its audio."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clmr_tf.data.index import (
    INDEX_FILE,
    SPLITS,
    IndexFile,
    Item,
    tag_arrays,
    write_index,
)
from clmr_tf.data.tasks import TaskDescription, read_task
from clmr_tf.errors import UsageError
from clmr_tf.files import sha256_of, write_atomically

FORMAT_VERSION = 2
MANIFEST_FILE = "manifest.json"
SKIPPED_FILE = "skipped.jsonl"
SHARDS_FOLDER = "shards"
SHARD_PATTERN = "[0-9]*-of-[0-9]*"
FIRST_INDEX_FILE = "index.jsonl"
PCM_DTYPE = np.dtype("<i2")
PCM_FULL_SCALE = 32768.0
_ITEMS_PER_READ = 4096


@dataclasses.dataclass(frozen=True)
class AudioFile:
    """A file of mono 16-bit PCM.

    Attributes:
        file: Its path relative to the folder of the corpus.
        num_samples: Its length.
    """

    file: str
    num_samples: int


class FirstFormatError(ValueError):
    """A manifest is in the first format, which had index.jsonl and one audio.pcm."""


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
        tool_versions: Versions of this package and of the libraries that decoded and resampled.
        fingerprint: SHA-256 over all items, which includes a digest of every item's audio; the same however it was
            sharded.
        index_sha256: SHA-256 of index.parquet.
        audio_files: The PCM in the order of the index; no item is in two of them.
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
    fingerprint: str = ""
    index_sha256: str = ""
    audio_files: tuple[AudioFile, ...] = ()
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """The text of manifest.json."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "CorpusManifest":
        """Reads manifest.json; raises ValueError if its format is unknown, FirstFormatError if it is the first one."""
        fields = json.loads(text)
        if isinstance(fields, dict) and fields.get("format_version") == 1:
            raise FirstFormatError("format version 1")
        if not isinstance(fields, dict) or fields.get("format_version") != FORMAT_VERSION:
            received = fields.get("format_version") if isinstance(fields, dict) else type(fields).__name__
            raise ValueError(f"format version {received!r}, but this program reads {FORMAT_VERSION}")
        try:
            audio_files = tuple(AudioFile(**file) for file in fields["audio_files"])
            return cls(**{**fields, "tag_names": tuple(fields["tag_names"]), "audio_files": audio_files})
        except (TypeError, KeyError) as error:
            raise ValueError(str(error)) from error


class Items(Sequence[Item]):
    """Items of a corpus, read from the index when they are asked for.

    Args:
        corpus: The corpus.
        rows: Their rows in it, int64.
    """

    def __init__(self, corpus: "Corpus", rows: np.ndarray) -> None:
        self._corpus, self._rows = corpus, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return Items(self._corpus, self._rows[place])
        return self._corpus.read_items(self._rows[[place]])[0]

    def __iter__(self) -> Iterator[Item]:
        for begin in range(0, len(self._rows), _ITEMS_PER_READ):
            yield from self._corpus.read_items(self._rows[begin : begin + _ITEMS_PER_READ])


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """A prepared corpus on disk, with the numbers of its index in memory.

    Attributes:
        folder: Folder of the corpus.
        manifest: Manifest of these items.
        index: Reads the strings of the items.
        index_rows: Row of each item in `index`, int64 [items].
        split_codes: Place of its split in SPLITS, int8 [items].
        song_numbers: Items with the same number are one song, int32 [items].
        offset_samples: First sample in all PCM files one after the other, int64 [items].
        num_samples: Length, int64 [items].
        tag_codes: Places in the manifest's `tag_names` of the tags of all items, one item after the other, int32.
        tag_begins: Where the tags of each item begin in `tag_codes`, and the end of the last: int64 [items + 1].
        task: The task selected by `for_task`; None for the corpus's own labels and splits.
    """

    folder: Path
    manifest: CorpusManifest
    index: IndexFile
    index_rows: np.ndarray
    split_codes: np.ndarray
    song_numbers: np.ndarray
    offset_samples: np.ndarray
    num_samples: np.ndarray
    tag_codes: np.ndarray
    tag_begins: np.ndarray
    task: TaskDescription | None = None

    @classmethod
    def open(cls, folder: Path | str) -> "Corpus":
        """Opens a prepared corpus and checks that its files are consistent.

        Raises:
            UsageError: If the folder is not a finished corpus, or index, manifest and audio disagree.
        """
        folder = Path(folder)
        path = folder / MANIFEST_FILE
        if not path.is_file():
            if is_unmerged(folder):
                raise UsageError(f"{folder} has shards that are not merged; run `python -m pipelines.merge {folder}`.")
            raise UsageError(f"{folder} is not a prepared corpus (no {MANIFEST_FILE}); prepare it first.")
        try:
            manifest = CorpusManifest.from_json(path.read_text(encoding="utf-8"))
            sha256 = sha256_of(folder / INDEX_FILE)
        except FirstFormatError as error:
            raise UsageError(
                f"{folder} was prepared by an older version; convert it with `python -m pipelines.merge {folder}`, "
                "which does not touch its audio."
            ) from error
        except (OSError, ValueError) as error:
            raise UsageError(f"The corpus in {folder} cannot be read ({error}); prepare it again.") from error
        if sha256 != manifest.index_sha256:
            raise UsageError(f"{folder / INDEX_FILE} was changed after the corpus was prepared; prepare it again.")
        for file in manifest.audio_files:
            require_size(folder, file, "prepare the corpus again")
        index = IndexFile(folder / INDEX_FILE)
        numbers = index.numbers()
        num_items = len(numbers["song"])
        no_tags = np.zeros(0, np.int32), np.zeros(num_items + 1, np.int64)
        tag_codes, tag_begins = tag_arrays(index.column("tags")) if manifest.tag_names else no_tags
        return cls(
            folder,
            manifest,
            index,
            index_rows=np.arange(num_items),
            split_codes=numbers["split"],
            song_numbers=numbers["song"],
            offset_samples=numbers["offset_samples"],
            num_samples=numbers["num_samples"],
            tag_codes=tag_codes,
            tag_begins=tag_begins,
        )

    def for_task(self, name: str) -> "Corpus":
        """The same audio with the labels and splits of a task, without items that the task does not label.

        The fingerprint is that of the corpus and the task together.

        Args:
            name: One of `task_names_in(folder)`.

        Raises:
            UsageError: If there is no such task, or it does not match this corpus.
        """
        if self.task is not None:
            return Corpus.open(self.folder).for_task(name)
        task, labels, task_fingerprint = read_task(name, self.folder)
        ids = self.index.column("id")
        label_of_item = pc.fill_null(pc.index_in(ids, value_set=labels["id"].combine_chunks()), -1).to_numpy()
        rows = np.flatnonzero(label_of_item >= 0)
        if len(rows) < len(labels):
            unknown = min(set(labels["id"].to_pylist()) - set(ids.to_pylist()))
            raise UsageError(f"The task {name!r} labels {unknown!r}, which is not in the corpus; make it again.")
        of_items = label_of_item[rows]
        tag_codes, tag_begins = _gather_tags(*tag_arrays(labels["tags"]), of_items)
        selected = dataclasses.replace(
            self.select(rows),
            split_codes=labels["split"].to_numpy()[of_items],
            tag_codes=tag_codes,
            tag_begins=tag_begins,
            task=task,
        )
        num_items, num_songs = count_by_split(selected.split_codes, selected.song_numbers)
        manifest = dataclasses.replace(
            self.manifest,
            tag_names=task.tag_names,
            num_items=num_items,
            num_songs=num_songs,
            source={**self.manifest.source, "task": name},
            fingerprint=hashlib.sha256(f"{self.manifest.fingerprint} {task_fingerprint}".encode("ascii")).hexdigest(),
        )
        selected = dataclasses.replace(selected, manifest=manifest)
        selected._require_songs_in_one_split()
        return selected

    def _require_songs_in_one_split(self) -> None:
        order = np.argsort(self.song_numbers, kind="stable")
        songs, splits = self.song_numbers[order], self.split_codes[order]
        wrong = np.flatnonzero((songs[1:] == songs[:-1]) & (splits[1:] != splits[:-1]))
        if len(wrong):
            song_id = self.items[order[wrong[0]]].song_id
            raise UsageError(f"The task {self.task.name!r} has the song {song_id!r} in two splits; make it again.")

    def select(self, rows: np.ndarray) -> "Corpus":
        """A corpus of the items in these rows, int64 or bool; its manifest still describes all items."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        tag_codes, tag_begins = _gather_tags(self.tag_codes, self.tag_begins, rows)
        return dataclasses.replace(
            self,
            index_rows=self.index_rows[rows],
            split_codes=self.split_codes[rows],
            song_numbers=self.song_numbers[rows],
            offset_samples=self.offset_samples[rows],
            num_samples=self.num_samples[rows],
            tag_codes=tag_codes,
            tag_begins=tag_begins,
        )

    @property
    def items(self) -> Items:
        """All items, in the order of the index."""
        return self.items_at(np.arange(len(self.index_rows)))

    def items_of(self, split: str) -> Items:
        """The items of one split, in the order of the index."""
        return self.items_at(self.rows_of(split))

    def items_at(self, rows: np.ndarray) -> Items:
        """The items in some rows of this corpus."""
        return Items(self, rows)

    def rows_of(self, split: str) -> np.ndarray:
        """The rows of the items of one split, ascending, int64."""
        return np.flatnonzero(self.split_codes == SPLITS.index(split))

    def read_items(self, rows: np.ndarray) -> list[Item]:
        """Reads the items in some rows at once; `items` and `items_of` do so in blocks."""
        names = self.manifest.tag_names
        begins, ends = self.tag_begins[rows].tolist(), self.tag_begins[rows + 1].tolist()
        return [
            Item(
                **fields,
                split=SPLITS[self.split_codes[row]],
                tags=tuple(names[code] for code in self.tag_codes[begin:end]),
            )
            for fields, row, begin, end in zip(
                self.index.fields(self.index_rows[rows]), rows.tolist(), begins, ends, strict=True
            )
        ]

    def multi_hot(self, rows: np.ndarray, dtype: type = np.float32) -> np.ndarray:
        """Tags of the items in `rows`: [len(rows), len(tag_names)], 1 where the item has the tag."""
        codes, begins = _gather_tags(self.tag_codes, self.tag_begins, rows)
        tags = np.zeros((len(rows), len(self.manifest.tag_names)), dtype)
        tags[np.repeat(np.arange(len(rows)), np.diff(begins)), codes] = 1
        return tags

    def read_samples(self, item: Item, offset_samples: int = 0, num_samples: int | None = None) -> np.ndarray:
        """Reads float32 samples in [-1, 1) of an item of a "pcm" corpus, outside of any graph.

        Args:
            item: An item of this corpus.
            offset_samples: First sample, counted from the start of the item.
            num_samples: Number of samples; None reads to the end of the item.
        """
        num_samples = item.num_samples - offset_samples if num_samples is None else num_samples
        path, begin = self.place_of(item.offset_samples)
        pcm = np.fromfile(path, PCM_DTYPE, num_samples, offset=(begin + offset_samples) * PCM_DTYPE.itemsize)
        return pcm.astype(np.float32) / PCM_FULL_SCALE

    def place_of(self, offset_samples: int) -> tuple[Path, int]:
        """The PCM file of an item that begins at `offset_samples`, and its first sample in that file."""
        begins = self.audio_begins
        number = int(np.searchsorted(begins, offset_samples, side="right")) - 1
        return self.folder / self.manifest.audio_files[number].file, int(offset_samples - begins[number])

    @property
    def audio_begins(self) -> np.ndarray:
        """The first sample of every PCM file in all of them one after the other, int64 [files]."""
        lengths = [file.num_samples for file in self.manifest.audio_files]
        return np.cumsum([0, *lengths[:-1]], dtype=np.int64)


def holds_corpus(folder: Path) -> bool:
    """Whether a folder has the manifest and the index of a corpus; other programs also write a manifest.json."""
    has_index = (folder / INDEX_FILE).is_file() or (folder / FIRST_INDEX_FILE).is_file()
    return has_index and (folder / MANIFEST_FILE).is_file()


def is_unmerged(folder: Path) -> bool:
    """Whether a folder holds shards of a corpus that are not merged, or not finished yet."""
    return any((folder / SHARDS_FOLDER).glob(SHARD_PATTERN)) and not (folder / MANIFEST_FILE).is_file()


def require_size(folder: Path, file: AudioFile, advice: str) -> None:
    """Raises UsageError, with `advice` at its end, unless a PCM file below `folder` has its length."""
    path, expected = folder / file.file, file.num_samples * PCM_DTYPE.itemsize
    received = path.stat().st_size if path.is_file() else 0
    if received != expected:
        raise UsageError(f"{path} has {received} bytes instead of {expected}; {advice}.")


def _gather_tags(codes: np.ndarray, begins: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counts = begins[rows + 1] - begins[rows]
    new_begins = np.concatenate([[0], np.cumsum(counts)])
    return codes[np.repeat(begins[rows] - new_begins[:-1], counts) + np.arange(new_begins[-1])], new_begins


def count_by_split(split_codes: np.ndarray, song_numbers: np.ndarray) -> tuple[dict[str, int], dict[str, int]]:
    """Number of items and of songs in each split that is not empty."""
    songs = {split: song_numbers[split_codes == code] for code, split in enumerate(SPLITS)}
    present = {split: of_split for split, of_split in songs.items() if len(of_split)}
    num_songs = {split: int(np.count_nonzero(np.bincount(of_split))) for split, of_split in present.items()}
    return {split: len(of_split) for split, of_split in present.items()}, num_songs


def write_corpus(folder: Path, table: pa.Table, outline: CorpusManifest, draft_folder: Path | None = None) -> None:
    """Writes the index, and then the manifest, with which a folder is a finished corpus.

    Args:
        folder: Folder of the corpus, with its audio.
        table: The items, see `clmr_tf.data.index.index_table`.
        outline: The manifest, without fingerprint and numbers of items and songs.
        draft_folder: See `clmr_tf.files.replaced_file`.
    """
    path = folder / INDEX_FILE
    fingerprint = write_index(path, table, outline.tag_names, storage=outline.storage, draft_folder=draft_folder)
    num_items, num_songs = count_by_split(table["split"].to_numpy(), table["song"].to_numpy())
    manifest = dataclasses.replace(
        outline, num_items=num_items, num_songs=num_songs, fingerprint=fingerprint, index_sha256=sha256_of(path)
    )
    write_atomically(folder / MANIFEST_FILE, manifest.to_json(), draft_folder=draft_folder)
