"""MagnaTagATune in the split of Lee et al. and Won et al. ("clean"): 21,105 clips of 29 seconds, 50 tags.

    python -m pipelines.magnatagatune_clean

Split: 15,244 train, 1,529 valid, 4,332 test: the split of the paper (pipelines.magnatagatune) without the clips that
have none of the 50 tags. Scores on it are six to eight points of PR-AUC higher, but this is not an improvement: never
compare results across the two splits. The published train.npy has 15,247 lines; three of them are the bad clips, which
are left out.

Source: as for pipelines.magnatagatune; read the terms named there before you use --download.

Expected files, in data/magnatagatune or the folder given with --data: as for pipelines.magnatagatune, but

    annotations_final.csv              tags of every clip; or instead of it the files of
    train.npy, valid.npy, test.npy,    https://github.com/minzwon/sota-music-tagging-models
    binary.npy, tags.npy               (split/mtat), which have this split
"""

import sys
from pathlib import Path

from clmr_tf.console import run_command
from clmr_tf.errors import UsageError
from pipelines.magnatagatune import (
    ANNOTATIONS,
    DATA,
    LabelledClip,
    download,
    published_clips,
    read_annotations,
    read_numpy_files,
)
from pipelines.preparation.command import DownloadOptions
from pipelines.preparation.published import PublishedCorpus, PublishedPipeline, require_files

NAME = "magnatagatune_clean"
CORPUS_NAME = "magnatagatune-clean"
# The lists of Lee et al., and https://github.com/minzwon/sota-music-tagging-models/issues/25 without the bad clips.
NUM_CLIPS = {"train": 15_244, "valid": 1_529, "test": 4_332}
NUMPY_FILES = ("train.npy", "valid.npy", "test.npy", "binary.npy", "tags.npy")


def read_corpus(options: DownloadOptions, data: Path) -> PublishedCorpus:
    """See `pipelines.magnatagatune.read_corpus`."""
    if options.download:
        download(data)
    return published_clips(CORPUS_NAME, read_clips(data), NUM_CLIPS, data)


def read_clips(data: Path) -> list[LabelledClip]:
    """Reads the split from the tables that exist: the published split, or the annotations that it was made from.

    Raises:
        UsageError: If neither exists, or a table is not as it was published.
    """
    if (data / ANNOTATIONS).is_file() or not (data / NUMPY_FILES[0]).is_file():
        require_files(data, [ANNOTATIONS], f"pipelines.{NAME}")
        return [clip for clip in read_annotations(data / ANNOTATIONS) if clip.tags]
    require_files(data, NUMPY_FILES, f"pipelines.{NAME}")
    clips = read_numpy_files(data)
    for clip in clips:
        # If the rows were numbered in another way, some clips would have no tags.
        if not clip.tags:
            raise UsageError(
                f"{data / 'binary.npy'} has no tag for {clip.path}, but every clip has one; fetch it again."
            )
    return clips


PIPELINE = PublishedPipeline(NAME, DATA, read_corpus, DownloadOptions, __doc__)
prepare_corpus, main = PIPELINE.prepare_corpus, PIPELINE.main

if __name__ == "__main__":
    sys.exit(run_command(main))
