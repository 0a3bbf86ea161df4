"""What the files say that MagnaTagATune and its two splits are published with.

Clips are named by their path in the archive, "f/artist-album-01-title-30-59.mp3", which all of these files know; the
numbers of the clips are not in the files of Won et al.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from clmr_tf.errors import UsageError
from clmr_tf.tag_names import MAGNATAGATUNE_TAGS as TAGS
from pipelines.tables import parse_label_vector, read_pairs, read_records, require_count

NUM_CLIPS = 25_863
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
# Both splits go by the folder (Dieleman and Schrauwen 2014): 12 for training, one for validation, three for the test.
SPLIT_OF_FOLDER = {**dict.fromkeys("0123456789ab", "train"), "c": "valid", **dict.fromkeys("def", "test")}


@dataclasses.dataclass(frozen=True)
class LabelledClip:
    """One clip: its path in the archive, its split, and those of its tags that are among the 50, in their order."""

    path: str
    split: str
    tags: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raises UsageError for a path that is of none of the sixteen folders, whatever table it stands in."""
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
    require_count(path, "clips", len(clips), NUM_CLIPS)
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
    require_count(index, "clips", len(paths), NUM_CLIPS)
    clips = []
    for split, path in labels.items():
        for clip_id, text in read_pairs(path).items():
            if clip_id not in paths:
                raise UsageError(f"{path} has the clip {clip_id}, which {index} does not have; fetch both again.")
            is_tagged = parse_label_vector(text, len(TAGS), path)
            clips.append(LabelledClip(paths[clip_id], split, _chosen(TAGS, is_tagged)))
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
    require_count(folder / "binary.npy", "rows", len(is_tagged), NUM_CLIPS)
    clips = []
    for split in ("train", "valid", "test"):
        path = folder / f"{split}.npy"
        for line in _load(path, "U"):
            row, separator, mp3_path = str(line).partition("\t")
            if not separator or not row.isdecimal() or int(row) >= len(is_tagged):
                raise UsageError(f"{path} has the line {str(line)[:60]!r} instead of a row and a path; fetch it again.")
            clip_tags = set(_chosen(tags, is_tagged[int(row)] > 0))
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
    """The song of a clip by its name: what stands before the two seconds, "-30-59.mp3", at its end."""
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


def _chosen(tags: Sequence[str], is_chosen: Iterable[bool]) -> tuple[str, ...]:
    return tuple(tag for tag, chosen in zip(tags, is_chosen, strict=True) if chosen)


def _load(path: Path, kinds: str) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path} cannot be read without running what it holds ({error}); fetch it again.") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds:
        raise UsageError(f"{path} does not hold what Won et al. published; fetch it again.")
    return array
