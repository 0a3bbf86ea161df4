"""Whether the audio of a prepared corpus is still what it was when it was prepared."""

import hashlib
from pathlib import Path

import numpy as np

from clmr_tf.corpus import PCM_DTYPE, PCM_FILE, Corpus, Item
from clmr_tf.errors import UsageError

# Read in less than a tenth of a second; the whole of a large corpus would take minutes at every start.
_LOOKED_AT_BYTES = 32 * 2**20


def require_unchanged_audio(corpus: Corpus, looked_at_bytes: int = _LOOKED_AT_BYTES) -> None:
    """Compares items, evenly spread over the corpus, with their digests in the index.

    The fingerprint of a corpus is that of its index; this is what ties the audio to it. A small corpus is looked at
    whole. Of a larger one a replaced file is found, and a single flipped bit may not be.

    Args:
        corpus: Of either storage.
        looked_at_bytes: About how much to read.

    Raises:
        UsageError: If an item has changed, or its file is gone.
    """
    sizes = [_num_bytes(corpus, item) for item in corpus.items]
    if not sizes:
        return
    num_items = min(len(sizes), max(1, int(looked_at_bytes / np.mean(sizes))))
    for row in np.linspace(0, len(sizes) - 1, num_items).round().astype(int):
        item = corpus.items[row]
        if _digest(corpus, item) != item.digest:
            raise UsageError(
                f"The audio of {item.id} in {corpus.folder} is not what was prepared; prepare the music again, or "
                "bring back a copy."
            )


def _num_bytes(corpus: Corpus, item: Item) -> int:
    return item.source_num_bytes if corpus.manifest.storage == "direct" else item.num_samples * PCM_DTYPE.itemsize


def _digest(corpus: Corpus, item: Item) -> str | None:
    is_direct = corpus.manifest.storage == "direct"
    start = 0 if is_direct else item.offset_samples * PCM_DTYPE.itemsize
    try:
        with Path(item.file if is_direct else corpus.folder / PCM_FILE).open("rb") as file:
            file.seek(start)
            content = file.read() if is_direct else file.read(_num_bytes(corpus, item))
    except OSError:
        return None
    return hashlib.sha256(content).hexdigest()[:16]
