"""Opening a corpus that is already prepared, if it is what the caller would have prepared now."""

import logging
from pathlib import Path

from clmr_tf.console import printable
from clmr_tf.data.corpus import MANIFEST_FILE, Corpus, CorpusManifest
from clmr_tf.errors import UsageError
from pipelines.preparation.settings import clear_work_folder

_logger = logging.getLogger(__name__)
_LISTING = "listing_sha256"
# They say where the music came from and change nothing about it.
_FREE_TEXT = frozenset({"description", _LISTING})


def opened_if_finished(destination: Path, outline: CorpusManifest, min_num_samples: int) -> Corpus | None:
    """Opens the corpus in `destination`; None if there is no finished one.

    Files that were added to or removed from its sources since are only warned about: music folders change
    all the time, and a run shall go on with what it began with.

    Args:
        destination: Folder of the corpus.
        outline: What its manifest would say now, as far as that is known before decoding.
        min_num_samples: Shortest item that is of use.

    Raises:
        UsageError: If the corpus was prepared with other settings, or is damaged.
    """
    if not (destination / MANIFEST_FILE).is_file():
        return None
    corpus = Corpus.open(destination)
    # The last preparation may have been killed between its last two steps.
    clear_work_folder(destination)
    _require_same_settings(corpus, outline)
    shortest = min((item.num_samples for item in corpus.items), default=0)
    if shortest < min_num_samples:
        raise UsageError(
            f"{destination} has an item of {shortest} samples, fewer than the {min_num_samples} that are asked "
            "for now; delete that folder to prepare it again, or choose another one."
        )
    if corpus.manifest.storage == "direct" and not Path(corpus.items[0].file).is_file():
        raise UsageError(
            f"{destination} points at audio files that are no longer there, such as {printable(corpus.items[0].file)}; "
            "delete that folder to prepare it again."
        )
    if corpus.manifest.source.get(_LISTING) != outline.source[_LISTING]:
        _logger.warning(
            "The source files have changed since %s was prepared; it is used as it is (delete it to prepare it again).",
            destination,
        )
    return corpus


def _require_same_settings(corpus: Corpus, outline: CorpusManifest) -> None:
    there, wanted = _settings(corpus.manifest), _settings(outline)
    for name in sorted(there.keys() | wanted.keys()):
        if there.get(name) != wanted.get(name):
            raise UsageError(
                f"{corpus.folder} was prepared with {name} {there.get(name)}, not {wanted.get(name)}; delete that "
                "folder to prepare it again, or choose another one."
            )


def _settings(manifest: CorpusManifest) -> dict[str, object]:
    options = {name: value for name, value in manifest.source.items() if name not in _FREE_TEXT}
    return {**options, "sample_rate_hz": manifest.sample_rate_hz, "reader": manifest.storage}
