"""The PCM file of an unfinished corpus: audio is appended, and after a kill or a power cut it is checked."""

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from clmr_tf.corpus import PCM_DTYPE, Item

# How much audio a power cut may cost: so much may be on its way to the disk, and is read again on opening.
_SYNC_BYTES = 256 * 2**20


class GrowingAudio:
    """Appends the audio of one item after the other."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        self._num_unsynced_bytes = 0

    @property
    def num_samples(self) -> int:
        """Length so far, which is where the next item begins."""
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
        """Closes the file; OSError if the disk is too full for what was appended last."""
        self._file.close()


def num_items_with_sound_audio(items: Sequence[Item], path: Path) -> int:
    """How many items, from the first on, have their audio in the file as the index describes it.

    Compares the digests of all that may not have been on the disk when the power went; what was synced
    before is only counted.
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
    """Cuts off what does not belong to one of the items."""
    os.truncate(path, _end_bytes(items[-1]) if items else 0)


def digest_of(pcm: bytes) -> str:
    """What the index keeps of an item's audio: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(pcm).hexdigest()[:16]


def _end_bytes(item: Item) -> int:
    return (item.offset_samples + item.num_samples) * PCM_DTYPE.itemsize
