"""MagnaTagATune in the split of the paper ("pons2017"): 25,860 clips of 29 seconds, 50 tags.

    python -m pipelines.magnatagatune --download

Split: 18,706 train, 1,825 valid, 5,329 test, by the sixteen folders of the archive (0 to 9, a, b; c; d, e, f), without
the three bad clips 35644, 55753 and 57881. Clips without any of the 50 tags belong to it. Clips of one song share a
song id, so that they are never each other's negatives. For the other split in circulation, with which no result may
be compared, see pipelines.magnatagatune_clean.

Where from: Law et al. 2009, https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset; the music is Magnatune's, free
for research that is not commercial: read the terms there before you use --download, which fetches 3 GB.

What goes where, in data/magnatagatune or the folder behind --data:

    audio/0/...mp3 to audio/f/...mp3   the unpacked archive: mp3.zip.001 to 003, joined
    annotations_final.csv              tags of every clip; or instead of it the files of
    index_mtt.tsv, train_gt_mtt.tsv,   https://github.com/jordipons/musicnn-training
    val_gt_mtt.tsv, test_gt_mtt.tsv    (data/index/mtt), which hold this split
    clip_info_final.csv                if there, songs are told apart by it, otherwise by
                                       the names of the clips
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from clmr_tf.console import run_command
from clmr_tf.corpus import Corpus
from pipelines.corpus_command import DownloadOptions, run_pipeline
from pipelines.magnatagatune_clips import ANNOTATIONS, DATA, published_clips
from pipelines.magnatagatune_download import download
from pipelines.magnatagatune_tables import LabelledClip, read_annotations, read_split_files
from pipelines.published import prepare_published, require_files
from pipelines.settings import PrepareSettings

NAME = "magnatagatune"
CORPUS_NAME = "magnatagatune-pons2017"
NUM_CLIPS = {"train": 18_706, "valid": 1_825, "test": 5_329}
INDEX = "index_mtt.tsv"
LABELS = {"train": "train_gt_mtt.tsv", "valid": "val_gt_mtt.tsv", "test": "test_gt_mtt.tsv"}


def prepare_corpus(destination: Path, settings: PrepareSettings, data: Path = DATA) -> Corpus:
    """Prepares the corpus, with a progress bar; see `pipelines.published.prepare_published`.

    Args:
        destination: Folder of the corpus.
        settings: How files are decoded and what is asked of them.
        data: Folder of the published files.

    Raises:
        UsageError: If a table is missing, cannot be read or has not the published counts; and as `prepare_published`.
        ClmrError: As `prepare_published`.
    """
    clips = read_clips(data)
    return prepare_published(published_clips(CORPUS_NAME, clips, NUM_CLIPS, data), destination, settings)


def read_clips(data: Path) -> list[LabelledClip]:
    """Reads the split out of whichever tables are there: the published one itself, or what it was made from.

    Raises:
        UsageError: If neither is there, or a table is not as it was published.
    """
    if (data / INDEX).is_file() and not (data / ANNOTATIONS).is_file():
        require_files(data, LABELS.values(), f"pipelines.{NAME}")
        return read_split_files(data / INDEX, {split: data / name for split, name in LABELS.items()})
    require_files(data, [ANNOTATIONS], f"pipelines.{NAME}")
    return read_annotations(data / ANNOTATIONS)


def main(arguments: Sequence[str]) -> None:
    """The command, without the program's name in `arguments`."""
    run_pipeline(arguments, _prepare, options_type=DownloadOptions, name=NAME, description=__doc__)


def _prepare(destination: Path, options: DownloadOptions) -> Corpus:
    data = options.data or DATA
    if options.download:
        download(data)
    return prepare_corpus(destination, options, data)


if __name__ == "__main__":
    sys.exit(run_command(main))
