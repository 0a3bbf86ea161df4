"""The journal of an unfinished corpus: what is done so far, so that a kill at any moment costs next to nothing.

It has one line for every source that is done, as index.jsonl or skipped.jsonl will have it, in the order of
the sources; the audio of the items grows beside it. Audio is written before the line that speaks of it. So
whatever a kill leaves half-done lies behind the last whole line, and opening the journal cuts it off.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from clmr_tf.audio_listing import SkippedFile
from clmr_tf.corpus import Item
from pipelines.destination import publish
from pipelines.growing_audio import GrowingAudio, cut_audio, num_items_with_sound_audio

_STATE_FILE = "state.json"
_JOURNAL_FILE = "journal.jsonl"
_PARTS_PREFIX = "parts-"


class Journal:
    """Appends one row per source, and knows those that are there.

    Attributes:
        items: Items that are done, in order.
        skipped: Files that were left out, in order.
        audio: The audio of all items, None where the corpus points at its source files.
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
        """How many sources have their row."""
        return len(self.items) + len(self.skipped)

    def add_item(self, item: Item, part: Path) -> None:
        """Appends an item, and its audio, which is moved out of `part`."""
        if self.audio is not None:
            self.audio.append(part)
        self._add_line(item.to_json())
        self.items.append(item)
        part.unlink(missing_ok=True)

    def add_skipped(self, skipped: SkippedFile, part: Path) -> None:
        """Appends a file that was left out, and removes what may have been made of it."""
        self._add_line(skipped.to_json())
        self.skipped.append(skipped)
        part.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file; OSError if the disk is too full for the last row."""
        self._file.close()

    def _add_line(self, line: str) -> None:
        self._file.write(line.encode("ascii") + b"\n")
        self._file.flush()


@contextlib.contextmanager
def opened_journal(work: Path, audio: Path, state: dict[str, object], *, with_audio: bool) -> Iterator[Journal]:
    """Opens the journal in a work folder that no other process uses, or starts a new one.

    Args:
        work: The work folder.
        audio: Where the audio of all items grows.
        state: Everything that decides about the content of the corpus. If it is not what the journal was
            begun with, that is thrown away.
        with_audio: Whether audio is kept at all.
    """
    path = work / _JOURNAL_FILE
    _start_afresh_unless_same(work, audio, state)
    rows = _cut_to_whole_rows(path, audio if with_audio else None)
    for left_over in work.glob(f"{_PARTS_PREFIX}*"):
        shutil.rmtree(left_over, ignore_errors=True)
    # A new name every time: a worker of a killed run may live a moment longer and write into the old one.
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
    # Never truncated in place, for somebody may have mapped the audio of an older corpus into memory.
    audio.unlink(missing_ok=True)
    publish(text, path, work)


def _cut_to_whole_rows(path: Path, audio: Path | None) -> list[Item | SkippedFile]:
    path.touch()
    rows, lengths = [], []
    for row, num_bytes in _whole_rows(path):
        rows.append(row)
        lengths.append(num_bytes)
    if audio is not None:
        audio.touch()
        items = [row for row in rows if isinstance(row, Item)]
        num_sound = num_items_with_sound_audio(items, audio)
        if num_sound < len(items):
            del rows[rows.index(items[num_sound]) :]
        cut_audio(items[:num_sound], audio)
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
