"""Converts a corpus of the first format, which had index.jsonl and one audio.pcm, without touching its audio."""

import hashlib
import json
from pathlib import Path
from typing import Any

from clmr_tf.data.corpus import (
    FIRST_INDEX_FILE,
    MANIFEST_FILE,
    AudioFile,
    CorpusManifest,
    require_size,
    write_corpus,
)
from clmr_tf.data.index import Item, index_table
from clmr_tf.data.tasks import TASKS_FOLDER, CorpusTask, Label, write_task
from clmr_tf.errors import UsageError
from pipelines.preparation.shards import claimed_folder, clear_work_folder

_PCM_FILE = "audio.pcm"


def is_in_first_format(folder: Path) -> bool:
    """Whether a folder holds a corpus of the first format, or one that is not converted completely yet."""
    return (folder / MANIFEST_FILE).is_file() and (folder / FIRST_INDEX_FILE).is_file()


def convert(folder: Path) -> None:
    """Converts a corpus and its tasks; killed at any moment, it is in one of the two formats.

    Fingerprints stay the same, so runs and results still belong to it.

    Args:
        folder: Folder of the corpus.

    Raises:
        UsageError: If it is damaged, or another process is converting it.
        OSError: If the disk is full; the next call converts it.
    """
    with claimed_folder(folder) as work:
        try:
            fields = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
            if fields["format_version"] == 1:
                _convert(folder, fields, work)
        # Not all of OSError: a corpus is whole if the disk is full.
        except (FileNotFoundError, ValueError, TypeError, KeyError) as error:
            raise UsageError(f"The corpus in {folder} cannot be converted ({error}); prepare it again.") from error
        for path in (folder / TASKS_FOLDER).glob("*.json"):
            path.unlink()
        (folder / FIRST_INDEX_FILE).unlink(missing_ok=True)
    clear_work_folder(folder)


def _convert(folder: Path, fields: dict[str, Any], work: Path) -> None:
    index = (folder / FIRST_INDEX_FILE).read_bytes()
    if hashlib.sha256(index).hexdigest() != fields["fingerprint"]:
        raise ValueError(f"{FIRST_INDEX_FILE} was changed")
    rows = [json.loads(line) for line in index.splitlines()]
    is_direct = fields["storage"] == "direct"
    items = [Item(**{**row, "tags": tuple(row["tags"]), "file": row["file"] if is_direct else ""}) for row in rows]
    for path in (folder / TASKS_FOLDER).glob("*.json"):
        write_task(_read_task(path), folder)
    pcm = AudioFile(_PCM_FILE, sum(item.num_samples for item in items))
    if not is_direct:
        require_size(folder, pcm, "prepare the corpus again")
    del fields["format_version"]
    outline = CorpusManifest(
        **{**fields, "tag_names": tuple(fields["tag_names"]), "audio_files": () if is_direct else (pcm,)}
    )
    write_corpus(folder, index_table(items, outline.tag_names), outline, work)


def _read_task(path: Path) -> CorpusTask:
    fields = json.loads(path.read_text(encoding="utf-8"))
    items = {name: Label(label["split"], tuple(label["tags"])) for name, label in fields["items"].items()}
    del fields["format"]
    return CorpusTask(**{**fields, "tag_names": tuple(fields["tag_names"]), "items": items})
