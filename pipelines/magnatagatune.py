"""MagnaTagATune in the split of the paper ("pons2017"): 25,860 clips of 29 seconds, 50 tags.

    python -m pipelines.magnatagatune --download

Split: 18,706 train, 1,825 valid, 5,329 test, by the sixteen folders of the archive (0 to 9, a, b; c; d, e, f), without
the three bad clips 35644, 55753 and 57881. Clips without any of the 50 tags are included. Clips of one song share a
song id, so they are never each other's negatives. Results on the other common split, pipelines.magnatagatune_clean, are
not comparable.

Source: Law et al. 2009, https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset; the music is Magnatune's, free
for non-commercial research; read the terms there before you use --download, which fetches 3 GB.

Expected files, in data/magnatagatune or the folder given with --data:

    audio/0/...mp3 to audio/f/...mp3   the unpacked archive: mp3.zip.001 to 003, joined
    annotations_final.csv              tags of every clip; or instead of it the files of
    index_mtt.tsv, train_gt_mtt.tsv,   https://github.com/jordipons/musicnn-training
    val_gt_mtt.tsv, test_gt_mtt.tsv    (data/index/mtt), which have this split
    clip_info_final.csv                optional; identifies songs (otherwise the names of the
                                       clips do)
"""

import collections
import dataclasses
import io
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from clmr_tf.console import run_command, stderr
from clmr_tf.data.labels import MAGNATAGATUNE_TAGS as TAGS
from clmr_tf.errors import UsageError
from pipelines.preparation.command import DownloadOptions
from pipelines.preparation.downloads import JoinedFiles, RemoteFile, UnpackingLimits, done_once, fetch, unpack_zip
from pipelines.preparation.published import DATA as ALL_DATA
from pipelines.preparation.published import PublishedCorpus, PublishedPipeline, require_files
from pipelines.preparation.sources import (
    SourceFile,
    parse_label_vector,
    read_pairs,
    read_records,
    require_count,
    require_split_counts,
)

NUM_LISTED_CLIPS = 25_863
NUM_ANNOTATED_TAGS = 188
# Empty (35644) or damaged (55753, 57881); all of them in train.
# https://github.com/jordipons/musicnn-training/blob/master/aux/mtt/partition_gt.py
BAD_CLIPS = frozenset(
    {
        "6/norine_braun-now_and_zen-08-gently-117-146.mp3",
        "8/jacob_heringman-josquin_des_prez_lute_settings-19-gintzler__pater_noster-204-233.mp3",
        "9/american_baroque-dances_and_suites_of_rameau_and_couperin-25-le_petit_rien_xiveme_ordre_couperin-88-117.mp3",
    }
)
# Both splits are by folder (Dieleman and Schrauwen 2014): 12 for training, one for validation, three for testing.
SPLIT_OF_FOLDER = {**dict.fromkeys("0123456789ab", "train"), "c": "valid", **dict.fromkeys("def", "test")}


@dataclasses.dataclass(frozen=True)
class LabelledClip:
    """One clip: its path in the archive, its split, and those of its tags that are among the 50, in their order."""

    path: str
    split: str
    tags: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raises UsageError if the path is in none of the sixteen folders."""
        split_of(self.path)


def read_annotations(path: Path) -> list[LabelledClip]:
    """Reads annotations_final.csv: all clips, the bad ones included, split by folder.

    Raises:
        UsageError: If it cannot be read, a count is wrong, or the 50 tags are not its most frequent ones.
    """
    frequencies: collections.Counter[str] = collections.Counter()
    clips = []
    for row in read_records(path, "\t", ["clip_id", "mp3_path", *TAGS]):
        mp3_path = row.pop("mp3_path")
        del row["clip_id"]
        if not clips:
            require_count(path, "tags", len(row), NUM_ANNOTATED_TAGS)
        frequencies.update(tag for tag, value in row.items() if value == "1")
        clips.append(LabelledClip(mp3_path, split_of(mp3_path), tuple(tag for tag in TAGS if row[tag] == "1")))
    require_count(path, "clips", len(clips), NUM_LISTED_CLIPS)
    rarest = min(TAGS, key=lambda tag: frequencies[tag])
    for tag, count in frequencies.items():
        if tag not in TAGS and count > frequencies[rarest]:
            raise UsageError(
                f"{path} has the tag {tag!r} more often than {rarest!r} of the 50 most frequent; fetch it again."
            )
    return clips


def read_split_files(index: Path, labels: dict[str, Path]) -> list[LabelledClip]:
    """Reads the files of Pons et al.: index_mtt.tsv and one `*_gt_mtt.tsv` for each split.

    Args:
        index: From the numbers of the clips to their paths.
        labels: Label file of every split; from numbers to 50 zeros and ones.

    Raises:
        UsageError: If a file cannot be read, a count is wrong, or a label file has an unknown clip.
    """
    paths = read_pairs(index)
    require_count(index, "clips", len(paths), NUM_LISTED_CLIPS)
    clips = []
    for split, path in labels.items():
        for clip_id, text in read_pairs(path).items():
            if clip_id not in paths:
                raise UsageError(f"{path} has the clip {clip_id}, which {index} does not have; fetch both again.")
            is_tagged = parse_label_vector(text, len(TAGS), path)
            clips.append(LabelledClip(paths[clip_id], split, _masked(TAGS, is_tagged)))
    return clips


def read_numpy_files(folder: Path) -> list[LabelledClip]:
    """Reads the files of Won et al.: {train,valid,test}.npy, binary.npy and tags.npy; no pickle in them is loaded.

    A line of a split is "row of binary.npy, tab, path". https://github.com/minzwon/sota-music-tagging-models

    Raises:
        UsageError: If a file cannot be read, a count is wrong, or the tags are not the 50.
    """
    tags = [str(tag) for tag in _load(folder / "tags.npy", "U")]
    if sorted(tags) != sorted(TAGS):
        raise UsageError(f"{folder / 'tags.npy'} does not hold the 50 tags of MagnaTagATune; fetch it again.")
    is_tagged = _load(folder / "binary.npy", "fiub")
    if is_tagged.ndim != 2 or is_tagged.shape[1] != len(tags):
        raise UsageError(f"{folder / 'binary.npy'} has the shape {is_tagged.shape}, not (rows, 50); fetch it again.")
    require_count(folder / "binary.npy", "rows", len(is_tagged), NUM_LISTED_CLIPS)
    clips = []
    for split in ("train", "valid", "test"):
        path = folder / f"{split}.npy"
        for line in _load(path, "U"):
            row, separator, mp3_path = str(line).partition("\t")
            if not separator or not row.isdecimal() or int(row) >= len(is_tagged):
                raise UsageError(f"{path} has the line {str(line)[:60]!r} instead of a row and a path; fetch it again.")
            clip_tags = set(_masked(tags, is_tagged[int(row)] > 0))
            clips.append(LabelledClip(mp3_path, split, tuple(tag for tag in TAGS if tag in clip_tags)))
    return clips


def read_songs(path: Path) -> dict[str, str]:
    """Reads clip_info_final.csv: the song of every clip, which is a track of an album's page.

    Returns:
        From the path of a clip to the id of its song.

    Raises:
        UsageError: If it cannot be read.
    """
    rows = read_records(path, "\t", ["mp3_path", "url", "track_number"])
    return {row["mp3_path"]: f"{row['url']}#{row['track_number']}" for row in rows if row["mp3_path"]}


def song_of_path(path: str) -> str:
    """The song of a clip by its file name: the part before its start and end in seconds, "-30-59.mp3"."""
    return re.sub(r"-\d+-\d+\.mp3$", "", path)


def split_of(path: str) -> str:
    """The split of a clip by its folder.

    Raises:
        UsageError: If it is not in one of the sixteen folders, or leaves it.
    """
    folder, *rest = path.split("/")
    if folder not in SPLIT_OF_FOLDER or ".." in rest:
        raise UsageError(f"{path!r} is in none of the folders 0 to f of MagnaTagATune; fetch the table again.")
    return SPLIT_OF_FOLDER[folder]


def _masked(tags: Sequence[str], mask: Iterable[bool]) -> tuple[str, ...]:
    return tuple(tag for tag, is_tagged in zip(tags, mask, strict=True) if is_tagged)


def _load(path: Path, kinds: str) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path} cannot be read without running its content ({error}); fetch it again.") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds:
        raise UsageError(f"{path} does not hold what Won et al. published; fetch it again.")
    return array


DATA = ALL_DATA / "magnatagatune"
ANNOTATIONS = "annotations_final.csv"
CLIP_INFO = "clip_info_final.csv"
AUDIO = "audio"


def published_clips(
    name: str, clips: Sequence[LabelledClip], num_clips: Mapping[str, int], data: Path
) -> PublishedCorpus:
    """Leaves out the bad clips, counts the others and looks up their songs.

    Args:
        name: Name of the corpus.
        clips: Clips of the split, with or without the bad ones.
        num_clips: How many were published for every split, without the bad ones.
        data: Folder of the published files.

    Raises:
        UsageError: If a count is wrong, or clip_info_final.csv does not contain one of the clips.
    """
    table = data / CLIP_INFO
    songs = read_songs(table) if table.is_file() else None
    sources = [
        SourceFile(
            path=data / AUDIO / clip.path,
            item_id=clip.path,
            song_id=song_of_path(clip.path) if songs is None else _song(songs, clip.path, table),
            source=f"{AUDIO}/{clip.path}",
            split=clip.split,
            tags=clip.tags,
        )
        for clip in clips
        if clip.path not in BAD_CLIPS
    ]
    require_split_counts(f"The split {name}", sources, num_clips)
    return PublishedCorpus(
        name=name,
        tag_names=TAGS,
        sources=sources,
        description="MagnaTagATune, https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset",
        options={"songs_by": "file name" if songs is None else "clip_info_final.csv"},
    )


def _song(songs: Mapping[str, str], clip: str, table: Path) -> str:
    if clip not in songs:
        raise UsageError(
            f"{table} does not have the clip {clip}; fetch it again, or delete it to identify songs by file name."
        )
    return songs[clip]


_HOST = "https://mirg.city.ac.uk/datasets/magnatagatune/"
# From https://github.com/p-lambda/jukemir (jukemir/assets/magnatagatune.json).
PARTS = (
    RemoteFile(
        "mp3.zip.001",
        f"{_HOST}mp3.zip.001",
        "sha256:f857fe185968773058cc71662c2ef5d8f2d4b7338e3c122cfd52f82dcb9760b9",
    ),
    RemoteFile(
        "mp3.zip.002",
        f"{_HOST}mp3.zip.002",
        "sha256:fc2e1ec441755556ed1398b1808f1b08b6034372f8bc27394510c0c58cdb52ce",
    ),
    RemoteFile(
        "mp3.zip.003",
        f"{_HOST}mp3.zip.003",
        "sha256:83a689824c17e82f6eb81cdbc4e4ca239a4cfc1fb41f1a5c80b861caec90450f",
    ),
)
TABLES = (
    RemoteFile(
        ANNOTATIONS,
        f"{_HOST}{ANNOTATIONS}",
        "sha256:99b94e95825d4fa576386a5367b9c96e0ec636e9f9c240aceb492f4728f68c3c",
    ),
    RemoteFile(
        CLIP_INFO,
        f"{_HOST}{CLIP_INFO}",
        "sha256:cb6108a10d3a91f0bfd7d2fbec2382559d15f20c8d28093f14e12162a47a3e78",
    ),
)
# 25,863 clips of 117 kB are 3 GB.
_LIMITS = UnpackingLimits(num_bytes=8 * 10**9, num_files=50_000)
_UNPACKED = "audio-is-complete"


def download(data: Path) -> None:
    """Downloads tables and audio into `data`; existing files are kept, and interrupted downloads are resumed.

    The three parts of the archive are read as one file and are not deleted.

    Raises:
        UsageError: See `fetch` and `unpack_zip`.
        ClmrError: See `fetch`.
    """
    for table in TABLES:
        fetch(table, data)
    with done_once(data / _UNPACKED) as is_missing:
        if is_missing:
            parts = [fetch(part, data) for part in PARTS]
            stderr.print(f"Unpacking the music into {data / AUDIO} ...", markup=False)
            with io.BufferedReader(JoinedFiles(parts), 2**20) as archive:
                unpack_zip(archive, data / AUDIO, _LIMITS)
            stderr.print(f"{data}/mp3.zip.001 to 003 are no longer needed.", markup=False)


NAME = "magnatagatune"
CORPUS_NAME = "magnatagatune-pons2017"
NUM_CLIPS = {"train": 18_706, "valid": 1_825, "test": 5_329}
INDEX = "index_mtt.tsv"
LABELS = {"train": "train_gt_mtt.tsv", "valid": "val_gt_mtt.tsv", "test": "test_gt_mtt.tsv"}


def read_corpus(options: DownloadOptions, data: Path) -> PublishedCorpus:
    """Downloads the files if the options say so, and reads what the published tables say about the corpus.

    Raises:
        UsageError: If a table is missing, cannot be read or does not have the published counts.
    """
    if options.download:
        download(data)
    return published_clips(CORPUS_NAME, read_clips(data), NUM_CLIPS, data)


def read_clips(data: Path) -> list[LabelledClip]:
    """Reads the split from the tables that exist: the published split, or the annotations that it was made from.

    Raises:
        UsageError: If neither exists, or a table is not as it was published.
    """
    if (data / INDEX).is_file() and not (data / ANNOTATIONS).is_file():
        require_files(data, LABELS.values(), f"pipelines.{NAME}")
        return read_split_files(data / INDEX, {split: data / name for split, name in LABELS.items()})
    require_files(data, [ANNOTATIONS], f"pipelines.{NAME}")
    return read_annotations(data / ANNOTATIONS)


PIPELINE = PublishedPipeline(NAME, DATA, read_corpus, DownloadOptions, __doc__)
prepare_corpus, main = PIPELINE.prepare_corpus, PIPELINE.main

if __name__ == "__main__":
    sys.exit(run_command(main))
