"""The Million Song Dataset in the split of Lee et al. 2017: 241,889 previews of 30 seconds, 50 tags of Last.fm.

    python -m pipelines.msd

Split: 201,680 train, 11,774 valid, 28,435 test; only previews longer than 29.1 seconds belong to it.

Source: Bertin-Mahieux et al. 2011, http://millionsongdataset.com; the previews are 7digital's and may not be
redistributed. Nothing is downloaded; you need your own copy.

Expected files, in data/msd or the folder given with --data:

    audio/8/9/8947470.clip.mp3 ...                    previews by their 7digital id
    filtered_list_train.cP, filtered_list_test.cP,    the files of
    msd_id_to_tag_vector.cP, MSD_id_to_7D_id.pkl,     https://github.com/jongpillee/music_dataset_split
    7D_id_to_path.pkl                                 (MSD_split)

These files are pickles, which can contain programs; they are read by a reader that rejects everything but plain data.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clmr_tf.console import run_command
from clmr_tf.data.labels import MSD_TAGS
from clmr_tf.data.restricted_pickle import StoredArray, load_plain_pickle
from clmr_tf.errors import UsageError
from pipelines.preparation.command import PublishedOptions
from pipelines.preparation.published import DATA as ALL_DATA
from pipelines.preparation.published import PublishedCorpus, PublishedPipeline, require_files
from pipelines.preparation.sources import SourceFile, require_split_counts

NAME = "msd"
CORPUS_NAME = "msd-lee2017"
DATA = ALL_DATA / NAME
AUDIO = "audio"
TRAIN_AND_VALID = "filtered_list_train.cP"
TEST = "filtered_list_test.cP"
TAG_VECTORS = "msd_id_to_tag_vector.cP"
SEVENDIGITAL_IDS = "MSD_id_to_7D_id.pkl"
PATHS = "7D_id_to_path.pkl"
# The first 201,680 ids of filtered_list_train.cP are for training, the others for validation (README there).
NUM_TRACKS = {"train": 201_680, "valid": 11_774, "test": 28_435}


def read_corpus(_: PublishedOptions, data: Path) -> PublishedCorpus:
    """Reads what the published tables say about the corpus.

    Raises:
        UsageError: If a table is missing, holds more than plain data or does not have the published counts.
    """
    return PublishedCorpus(
        name=CORPUS_NAME,
        tag_names=MSD_TAGS,
        sources=read_sources(data),
        description="Million Song Dataset, http://millionsongdataset.com, previews of 7digital",
    )


def read_sources(data: Path) -> list[SourceFile]:
    """Reads the split; every track is a song.

    Raises:
        UsageError: See `read_corpus`.
    """
    require_files(data, [TRAIN_AND_VALID, TEST, TAG_VECTORS, SEVENDIGITAL_IDS, PATHS], f"pipelines.{NAME}")
    train_and_valid, test = (_ids(data / name) for name in (TRAIN_AND_VALID, TEST))
    num_train = NUM_TRACKS["train"]
    split_of = {
        **dict.fromkeys(train_and_valid[:num_train], "train"),
        **dict.fromkeys(train_and_valid[num_train:], "valid"),
        **dict.fromkeys(test, "test"),
    }
    tag_vectors, sevendigital_ids, paths = (_dict(data / name) for name in (TAG_VECTORS, SEVENDIGITAL_IDS, PATHS))
    audio = data / AUDIO
    sources = []
    for track, split in split_of.items():
        path = _path(_entry(paths, _entry(sevendigital_ids, track, SEVENDIGITAL_IDS), PATHS))
        tags = _tags(_entry(tag_vectors, track, TAG_VECTORS))
        sources.append(SourceFile(audio / path, track, track, f"{AUDIO}/{path}", split, tags))
    require_split_counts(f"The split {CORPUS_NAME}", sources, NUM_TRACKS)
    return sources


def _ids(path: Path) -> list[str]:
    ids = load_plain_pickle(path)
    if not isinstance(ids, list) or not all(isinstance(track, str) for track in ids):
        raise UsageError(f"{path} does not hold a list of track ids; fetch it again.")
    return ids


def _dict(path: Path) -> dict[Any, Any]:
    table = load_plain_pickle(path)
    if not isinstance(table, dict):
        raise UsageError(f"{path} does not hold a dictionary; fetch it again.")
    return table


def _entry(table: Mapping[Any, Any], key: Any, name: str) -> Any:
    if key not in table:
        raise UsageError(f"{name} does not have {key!r}; fetch it again.")
    return table[key]


def _path(path: Any) -> str:
    # The path is from a downloaded file and must not lead out of the folder.
    if not isinstance(path, str) or path.startswith("/") or ".." in path.split("/"):
        raise UsageError(f"{PATHS} has {path!r} instead of a path such as '8/9/8947470.clip.mp3'; fetch it again.")
    return path


def _tags(stored: Any) -> tuple[str, ...]:
    try:
        vector = stored.to_array() if isinstance(stored, StoredArray) else np.asarray(stored)
        columns = np.flatnonzero(vector.reshape(len(MSD_TAGS)))
    except (ValueError, TypeError) as error:
        raise UsageError(f"{TAG_VECTORS} has a tag vector that cannot be read ({error}); fetch it again.") from error
    return tuple(MSD_TAGS[column] for column in columns)


PIPELINE = PublishedPipeline(NAME, DATA, read_corpus, PublishedOptions, __doc__)
prepare_corpus, main = PIPELINE.prepare_corpus, PIPELINE.main

if __name__ == "__main__":
    sys.exit(run_command(main))
