"""The journal of a preparation, which records the finished files for resuming."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from clmr_tf.audio.listing import SkippedFile
from clmr_tf.data.corpus import PCM_DTYPE, AudioFile
from clmr_tf.data.index import Item
from clmr_tf.files import write_atomically

# At most this much audio is not synced yet and can be lost in a power cut; it is verified when the journal is opened.
_SYNC_BYTES = 256 * 2**20
MAX_FILE_NUM_SAMPLES = 2**34
"""Samples of a PCM file (32 GiB), unless a single item is longer."""


class AudioLayout:
    """Places items one after the other in files of bounded size, none of them in two files.

    Attributes:
        lengths: Samples in each file so far.
    """

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def place(self, num_samples: int) -> tuple[int, int]:
        """Adds an item; returns the number of its file and its first sample there."""
        if not self.lengths or self.lengths[-1] + num_samples > MAX_FILE_NUM_SAMPLES:
            self.lengths.append(0)
        begin = self.lengths[-1]
        self.lengths[-1] += num_samples
        return len(self.lengths) - 1, begin


class GrowingAudio:
    """The files to which the audio of each item is appended.

    Args:
        folder: Their folder.
        items: The items that are there already.
    """

    def __init__(self, folder: Path, items: Sequence[Item]) -> None:
        self._folder = folder
        self._layout = AudioLayout()
        for item in items:
            self._layout.place(item.num_samples)
        self._number = len(self._layout.lengths) - 1
        self._file = self._opened() if items else None
        self._num_unsynced_bytes = 0

    @property
    def files(self) -> list[AudioFile]:
        """All files with their lengths."""
        return [AudioFile(pcm_file(number), length) for number, length in enumerate(self._layout.lengths)]

    @property
    def num_samples(self) -> int:
        """Their total length, where the next item begins."""
        return sum(self._layout.lengths)

    def append(self, part: Path) -> None:
        """Copies the samples of `part` to the end."""
        number, _ = self._layout.place(part.stat().st_size // PCM_DTYPE.itemsize)
        if number > self._number:
            self.sync()
            self.close()
            self._number = number
            self._file = self._opened()
        with part.open("rb") as samples:
            shutil.copyfileobj(samples, self._file, 2**20)
            self._num_unsynced_bytes += samples.tell()
        self._file.flush()
        if self._num_unsynced_bytes >= _SYNC_BYTES:
            self.sync()

    def sync(self) -> None:
        """Waits until everything is on the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        self._num_unsynced_bytes = 0

    def close(self) -> None:
        """Closes the file; OSError if the disk is full."""
        if self._file is not None:
            self._file.close()

    def _opened(self) -> BinaryIO:
        return (self._folder / pcm_file(self._number)).open("ab")


def pcm_file(number: int) -> str:
    """Name of a PCM file of a shard."""
    return f"audio-{number:05d}.pcm"


def num_items_with_intact_audio(items: Sequence[Item], folder: Path) -> int:
    """How many items, from the first on, have intact audio in the files.

    Checks the digests only of audio that may not have been synced before a power cut; of the rest, only the length.
    """
    layout = AudioLayout()
    places = [layout.place(item.num_samples) for item in items]
    paths = [folder / pcm_file(number) for number in range(len(layout.lengths))]
    sizes = [path.stat().st_size if path.is_file() else 0 for path in paths]

    def is_complete(item: Item, place: tuple[int, int]) -> bool:
        return (place[1] + item.num_samples) * PCM_DTYPE.itemsize <= sizes[place[0]]

    num_complete = next((row for row, item in enumerate(items) if not is_complete(item, places[row])), len(items))
    first, num_bytes = num_complete, 0
    while first > 0 and num_bytes < _SYNC_BYTES:
        first -= 1
        num_bytes += items[first].num_samples * PCM_DTYPE.itemsize
    for row in range(first, num_complete):
        number, begin = places[row]
        with paths[number].open("rb") as samples:
            samples.seek(begin * PCM_DTYPE.itemsize)
            audio = samples.read(items[row].num_samples * PCM_DTYPE.itemsize)
        if digest_of(audio) != items[row].digest:
            return row
    return num_complete


def cut_audio(items: Sequence[Item], folder: Path) -> None:
    """Removes everything after the last of the items from the files."""
    layout = AudioLayout()
    for item in items:
        layout.place(item.num_samples)
    lengths = {pcm_file(number): length for number, length in enumerate(layout.lengths)}
    for path in audio_files_in(folder):
        if path.name in lengths:
            os.truncate(path, lengths[path.name] * PCM_DTYPE.itemsize)
        else:
            path.unlink()


def audio_files_in(folder: Path) -> list[Path]:
    """The PCM files of a shard."""
    return sorted(folder.glob("audio-*.pcm"))


def digest_of(pcm: bytes) -> str:
    """The digest of an item's audio in the index: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(pcm).hexdigest()[:16]


STATE_FILE = "state.json"
JOURNAL_FILE = "journal.jsonl"
PARTS_PREFIX = "parts-"


class Journal:
    """Appends one row per source, and contains the existing rows.

    Attributes:
        items: Items that are done, in order.
        skipped: Files that were left out, in order.
        audio: The audio of all items; None if the corpus refers to its source files.
        parts: Folder for the audio of files that are not in the journal yet.
    """

    def __init__(self, path: Path, audio: GrowingAudio | None, parts: Path, rows: list[Item | SkippedFile]) -> None:
        self._file = path.open("ab")
        self.audio = audio
        self.parts = parts
        self.items = [row for row in rows if isinstance(row, Item)]
        self.skipped = [row for row in rows if isinstance(row, SkippedFile)]

    @property
    def num_done(self) -> int:
        """Number of files that have a row."""
        return len(self.items) + len(self.skipped)

    def add_item(self, item: Item, part: Path) -> None:
        """Appends an item and its audio, and removes `part`."""
        if self.audio is not None:
            self.audio.append(part)
        self._add_line(item.to_json())
        self.items.append(item)
        part.unlink(missing_ok=True)

    def add_skipped(self, skipped: SkippedFile, part: Path) -> None:
        """Appends a file that was left out, and removes `part` if it exists."""
        self._add_line(skipped.to_json())
        self.skipped.append(skipped)
        part.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file; OSError if the disk is full."""
        self._file.close()

    def _add_line(self, line: str) -> None:
        self._file.write(line.encode("ascii") + b"\n")
        self._file.flush()


@contextlib.contextmanager
def opened_journal(work: Path, folder: Path, state: dict[str, object], *, with_audio: bool) -> Iterator[Journal]:
    """Opens the journal in a work folder, or starts a new one.

    Args:
        work: The work folder, which no other process uses.
        folder: Folder for the audio of all items.
        state: Everything that the content of the corpus depends on. If it differs from the journal's, the journal and
            the audio are deleted.
        with_audio: Whether the corpus contains the audio itself.
    """
    path = work / JOURNAL_FILE
    _start_afresh_unless_same(work, folder, {**state, "max_file_num_samples": MAX_FILE_NUM_SAMPLES})
    rows = _cut_to_whole_rows(path, folder if with_audio else None)
    for left_over in work.glob(f"{PARTS_PREFIX}*"):
        shutil.rmtree(left_over, ignore_errors=True)
    # A new name every time: a worker of a killed process may run for a moment longer and write to the old one.
    parts = Path(tempfile.mkdtemp(dir=work, prefix=PARTS_PREFIX))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, parts, ignore_errors=True)
        items = [row for row in rows if isinstance(row, Item)]
        growing = stack.enter_context(contextlib.closing(GrowingAudio(folder, items))) if with_audio else None
        yield stack.enter_context(contextlib.closing(Journal(path, growing, parts, rows)))


def _start_afresh_unless_same(work: Path, folder: Path, state: dict[str, object]) -> None:
    text = json.dumps(state, sort_keys=True).encode("ascii")
    path = work / STATE_FILE
    if path.is_file() and path.read_bytes() == text:
        return
    (work / JOURNAL_FILE).unlink(missing_ok=True)
    # Not truncated in place, since another process may have mapped the audio of an older corpus into memory.
    for audio in audio_files_in(folder):
        audio.unlink()
    write_atomically(path, text)


def _cut_to_whole_rows(path: Path, folder: Path | None) -> list[Item | SkippedFile]:
    path.touch()
    rows, lengths = [], []
    for row, num_bytes in _whole_rows(path):
        rows.append(row)
        lengths.append(num_bytes)
    if folder is not None:
        items = [row for row in rows if isinstance(row, Item)]
        num_intact = num_items_with_intact_audio(items, folder)
        if num_intact < len(items):
            del rows[rows.index(items[num_intact]) :]
        cut_audio(items[:num_intact], folder)
    os.truncate(path, sum(lengths[: len(rows)]))
    return rows


def _whole_rows(path: Path) -> Iterator[tuple[Item | SkippedFile, int]]:
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                return
            try:
                fields = json.loads(line)
                row = SkippedFile(**fields) if "reason" in fields else Item.from_json(line.decode("ascii"))
            except (ValueError, TypeError):
                # A power cut can leave lines of zeros.
                return
            yield row, len(line)
