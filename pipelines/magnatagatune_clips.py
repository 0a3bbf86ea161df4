"""From the labelled clips of MagnaTagATune, whatever the split, to what is prepared."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from clmr_tf.errors import UsageError
from pipelines.magnatagatune_tables import BAD_CLIPS, TAGS, LabelledClip, read_songs, song_of_path
from pipelines.published import DATA as ALL_DATA
from pipelines.published import PublishedCorpus
from pipelines.sources import SourceFile
from pipelines.tables import require_split_counts

DATA = ALL_DATA / "magnatagatune"
ANNOTATIONS = "annotations_final.csv"
CLIP_INFO = "clip_info_final.csv"
AUDIO = "audio"


def published_clips(
    name: str, clips: Sequence[LabelledClip], num_clips: Mapping[str, int], data: Path
) -> PublishedCorpus:
    """Leaves out the bad clips, counts the others and finds out which song they are of.

    Args:
        name: Name of the corpus.
        clips: Clips of the split, with or without the bad ones.
        num_clips: How many were published for every split, without the bad ones.
        data: Folder of the published files.

    Raises:
        UsageError: If a count is wrong, or clip_info_final.csv lacks one of the clips.
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
        raise UsageError(f"{table} does not have the clip {clip}; fetch it again, or remove it to go by file names.")
    return songs[clip]
