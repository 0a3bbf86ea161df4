"""The journal of a preparation, which records the finished files for resuming."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from clmr_tf.audio.listing import SkippedFile
from clmr_tf.data.corpus import PCM_DTYPE, Item
from clmr_tf.files import write_atomically

# At most this much audio is not synced yet and can be lost in a power cut; it is verified when the journal is opened.
_SYNC_BYTES = 256 * 2**20


class GrowingAudio:
    """The file to which the audio of each item is appended."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        self._num_unsynced_bytes = 0

    @property
    def num_samples(self) -> int:
        """Its length, where the next item begins."""
        return self._file.tell() // PCM_DTYPE.itemsize

    def append(self, part: Path) -> None:
        """Copies the samples of `part` to the end."""
        with part.open("rb") as samples:
            shutil.copyfileobj(samples, self._file, 2**20)
            self._num_unsynced_bytes += samples.tell()
        self._file.flush()
        if self._num_unsynced_bytes >= _SYNC_BYTES:
            self.sync()

    def sync(self) -> None:
        """Waits until everything is on the disk."""
        os.fsync(self._file.fileno())
        self._num_unsynced_bytes = 0

    def close(self) -> None:
        """Closes the file; OSError if the disk is full."""
        self._file.close()


def num_items_with_intact_audio(items: Sequence[Item], path: Path) -> int:
    """How many items, from the first on, have intact audio in the file.

    Checks the digests only of audio that may not have been synced before a power cut; of the rest, only the length.
    """
    size = path.stat().st_size
    num_complete = sum(_end_bytes(item) <= size for item in items)
    first, num_bytes = num_complete, 0
    while first > 0 and num_bytes < _SYNC_BYTES:
        first -= 1
        num_bytes += items[first].num_samples * PCM_DTYPE.itemsize
    with path.open("rb") as samples:
        for index in range(first, num_complete):
            samples.seek(items[index].offset_samples * PCM_DTYPE.itemsize)
            audio = samples.read(items[index].num_samples * PCM_DTYPE.itemsize)
            if digest_of(audio) != items[index].digest:
                return index
    return num_complete


def cut_audio(items: Sequence[Item], path: Path) -> None:
    """Truncates the file after the last of the items."""
    os.truncate(path, _end_bytes(items[-1]) if items else 0)


def digest_of(pcm: bytes) -> str:
    """The digest of an item's audio in the index: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(pcm).hexdigest()[:16]


def _end_bytes(item: Item) -> int:
    return (item.offset_samples + item.num_samples) * PCM_DTYPE.itemsize


_STATE_FILE = "state.json"
_JOURNAL_FILE = "journal.jsonl"
_PARTS_PREFIX = "parts-"


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
def opened_journal(work: Path, audio: Path, state: dict[str, object], *, with_audio: bool) -> Iterator[Journal]:
    """Opens the journal in a work folder, or starts a new one.

    Args:
        work: The work folder, which no other process uses.
        audio: File for the audio of all items.
        state: Everything that the content of the corpus depends on. If it differs from the journal's, the journal and
            the audio are deleted.
        with_audio: Whether the corpus contains the audio itself.
    """
    path = work / _JOURNAL_FILE
    _start_afresh_unless_same(work, audio, state)
    rows = _cut_to_whole_rows(path, audio if with_audio else None)
    for left_over in work.glob(f"{_PARTS_PREFIX}*"):
        shutil.rmtree(left_over, ignore_errors=True)
    # A new name every time: a worker of a killed process may run for a moment longer and write to the old one.
    parts = Path(tempfile.mkdtemp(dir=work, prefix=_PARTS_PREFIX))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, parts, ignore_errors=True)
        growing = stack.enter_context(contextlib.closing(GrowingAudio(audio))) if with_audio else None
        yield stack.enter_context(contextlib.closing(Journal(path, growing, parts, rows)))


def _start_afresh_unless_same(work: Path, audio: Path, state: dict[str, object]) -> None:
    text = json.dumps(state, sort_keys=True).encode("ascii")
    path = work / _STATE_FILE
    if path.is_file() and path.read_bytes() == text:
        return
    (work / _JOURNAL_FILE).unlink(missing_ok=True)
    # Not truncated in place, since another process may have mapped the audio of an older corpus into memory.
    audio.unlink(missing_ok=True)
    write_atomically(path, text)


def _cut_to_whole_rows(path: Path, audio: Path | None) -> list[Item | SkippedFile]:
    path.touch()
    rows, lengths = [], []
    for row, num_bytes in _whole_rows(path):
        rows.append(row)
        lengths.append(num_bytes)
    if audio is not None:
        audio.touch()
        items = [row for row in rows if isinstance(row, Item)]
        num_intact = num_items_with_intact_audio(items, audio)
        if num_intact < len(items):
            del rows[rows.index(items[num_intact]) :]
        cut_audio(items[:num_intact], audio)
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
