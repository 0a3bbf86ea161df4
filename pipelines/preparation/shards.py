"""Shards of a corpus: each prepares a range of the list of files in a folder of its own, anywhere and in any order."""

import contextlib
import dataclasses
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clmr_tf.config.shards import Shard
from clmr_tf.data.corpus import MANIFEST_FILE, SHARDS_FOLDER, AudioFile, holds_corpus
from clmr_tf.errors import UsageError
from clmr_tf.files import exclusive_lock, writable_or_usage_error, write_atomically
from pipelines.preparation.journal import JOURNAL_FILE, PARTS_PREFIX, STATE_FILE

_WORK_FOLDER = "unfinished"
_LOCK_FILE = "lock"


def folder_of(shard: Shard, corpus_folder: Path) -> Path:
    """The folder of a shard of a corpus."""
    return corpus_folder / SHARDS_FOLDER / shard.name


@dataclasses.dataclass(frozen=True)
class ShardManifest:
    """The contents of manifest.json in the folder of a finished shard.

    Attributes:
        folder: Its folder, which is not in the file.
        made_from: All that the corpus depends on; equal in all shards of a corpus.
        num_files: Audio files that it was given.
        num_skipped: Those of these that cannot be used, by reason.
        num_rejected: How many rows at the beginning of its skipped.jsonl are files that the pipeline left out itself.
        audio_seconds: Duration of its items.
        audio_files: Its PCM, relative to its folder.
        sha256: SHA-256 of its index.parquet and its skipped.jsonl by name.
    """

    folder: Path
    made_from: Mapping[str, Any]
    num_files: int
    num_skipped: Mapping[str, int]
    num_rejected: int
    audio_seconds: float
    audio_files: tuple[AudioFile, ...]
    sha256: Mapping[str, str]

    def write(self, draft_folder: Path) -> None:
        """Writes it, with which the shard is finished."""
        fields = dataclasses.asdict(self)
        del fields["folder"]
        text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
        write_atomically(self.folder / MANIFEST_FILE, text, draft_folder=draft_folder)

    @classmethod
    def read(cls, folder: Path) -> "ShardManifest | None":
        """Reads that of a shard; None if it is not finished, UsageError if it is damaged."""
        path = folder / MANIFEST_FILE
        if not path.is_file():
            return None
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            audio_files = tuple(AudioFile(**file) for file in fields["audio_files"])
            return cls(folder, **{**fields, "audio_files": audio_files})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{path} cannot be read ({error}); delete its folder and prepare it again.") from error

    def difference_from(self, made_from: Mapping[str, Any]) -> str | None:
        """What was different when another shard was made, in words; None if nothing was."""
        here, there = dict(_entries(self.made_from)), dict(_entries(made_from))
        different = [path for path in here.keys() | there.keys() if here.get(path) != there.get(path)]
        # Another list has another digest and often other values that say more.
        for path in sorted(different, key=lambda path: (path[-1].endswith("sha256"), path)):
            if path[-1].endswith("sha256"):
                return "another list of files"
            return f"{path[-1]} {here.get(path)} instead of {there.get(path)}"
        return None


def _entries(settings: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The entries of a mapping and of the mappings in it, with all names on the way to each."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from (((name, *path), inner) for path, inner in _entries(value))
        else:
            yield (name,), value


def shards_in(corpus_folder: Path) -> list[Shard]:
    """The shards that have a folder, finished or not, sorted."""
    folder = corpus_folder / SHARDS_FOLDER
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = [re.fullmatch(r"(\d{5})-of-(\d{5})", name) for name in names]
    shards = [Shard(int(match[1]), int(match[2])) for match in found if match]
    return sorted(shards, key=lambda shard: (shard.num_shards, shard.number))


def require_same_division(corpus_folder: Path, num_shards: int) -> None:
    """Raises UsageError if a corpus was begun with another number of shards."""
    others = [shard for shard in shards_in(corpus_folder) if shard.num_shards != num_shards]
    if others:
        raise UsageError(
            f"{corpus_folder} has shards of another division, such as {others[0].name}; finish and merge those, or "
            f"delete {corpus_folder / SHARDS_FOLDER}."
        )


@contextlib.contextmanager
def claimed_folder(folder: Path, *, lock_timeout_seconds: float = 0.0) -> Iterator[Path]:
    """Creates the folder of a corpus or a shard and its work folder, and locks them against other processes.

    Args:
        folder: The folder.
        lock_timeout_seconds: How long to wait for another process that prepares it.

    Yields:
        The work folder, for everything that must survive a kill. It exists until `clear_work_folder`.

    Raises:
        UsageError: If the folder cannot be written, contains something else, or is being prepared by another process.
    """
    work = folder / _WORK_FOLDER
    with contextlib.ExitStack() as stack:
        with writable_or_usage_error(folder, "choose another folder for the corpus"):
            require_own_folder(folder)
            folder.mkdir(parents=True, exist_ok=True)
            work.mkdir(exist_ok=True)
            refusal = f"Another process is already preparing or merging {folder}; wait for it to finish."
            lock = exclusive_lock(work / _LOCK_FILE, refusal, timeout_seconds=lock_timeout_seconds)
            stack.enter_context(lock)
        yield work


def clear_work_folder(folder: Path) -> None:
    """Removes the work folder, unless it is a folder of the user that has the same name."""
    if _is_work_folder(folder / _WORK_FOLDER):
        # If the folder cannot be removed, it does no harm.
        shutil.rmtree(folder / _WORK_FOLDER, ignore_errors=True)


def _is_work_folder(folder: Path) -> bool:
    own = {_LOCK_FILE, STATE_FILE, JOURNAL_FILE}
    # Drafts are hidden.
    return folder.is_dir() and all(
        path.name in own or path.name.startswith((".", PARTS_PREFIX)) for path in folder.iterdir()
    )


def require_own_folder(folder: Path) -> None:
    """Raises UsageError if a folder for a corpus is a file or holds other files and no corpus."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; choose a folder for the corpus.")
    names = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")} if folder.exists() else set()
    # Other programs use these names too.
    shards = folder / SHARDS_FOLDER
    is_own = {
        _WORK_FOLDER: _is_work_folder(folder / _WORK_FOLDER),
        SHARDS_FOLDER: shards.is_dir() and (bool(shards_in(folder)) or not any(shards.iterdir())),
        MANIFEST_FILE: holds_corpus(folder),
    }
    present = names & is_own.keys()
    if names and not (present and all(is_own[name] for name in present)):
        raise UsageError(f"{folder} contains other files and no corpus; choose an empty folder for the corpus.")
