"""McGill Billboard: 890 annotated entries of the American charts of 1958 to 1991, for training without labels.

    python -m pipelines.billboard

The index has more entries than songs (740, by its authors' count), since a song that stayed in the charts could be
sampled more than once; entries with the same artist and title are one song. It has neither tags nor splits for audio:
a hash of the songs' names selects a tenth of them for validation.

Source: Burgoyne et al. 2011, https://ddmal.ca/research/The_McGill_Billboard_Project_(Chord_Analysis_Dataset)/; the
index is CC0, the recordings are commercial. Nothing is downloaded; you need your own copies.

Expected files, in data/billboard or the folder given with --data:

    billboard-2.0-index.csv     from the page above
    audio/0003.mp3 ...          named by the four-digit id, in any audio format
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from clmr_tf.audio.decoding import is_named_like_audio
from clmr_tf.console import run_command
from clmr_tf.errors import UsageError
from pipelines.preparation.command import PublishedOptions
from pipelines.preparation.published import DATA as ALL_DATA
from pipelines.preparation.published import PublishedCorpus, PublishedPipeline, require_files
from pipelines.preparation.sources import SourceFile, read_records, require_count, split_songs

NAME = "billboard"
DATA = ALL_DATA / NAME
AUDIO = "audio"
INDEX = "billboard-2.0-index.csv"
NUM_ENTRIES = 890
VALID_FRACTION = 0.1


def read_corpus(_: PublishedOptions, data: Path) -> PublishedCorpus:
    """Reads what the published tables say about the corpus.

    Raises:
        UsageError: If the index is missing, cannot be read or does not have the published count, if two files have the
            same id.
    """
    return PublishedCorpus(
        name=NAME,
        tag_names=(),
        sources=read_sources(data),
        description="McGill Billboard 2.0, https://ddmal.ca/research, with recordings of your own",
    )


def read_sources(data: Path) -> list[SourceFile]:
    """Reads the index and looks for a file for each of its songs.

    Raises:
        UsageError: See `read_corpus`.
    """
    require_files(data, [INDEX], f"pipelines.{NAME}")
    records = read_records(data / INDEX, ",", ["id", "title", "artist"])
    # Entries that were sampled but not annotated have no title.
    songs = {_item_id(row["id"], data / INDEX): f"{row['artist']}: {row['title']}" for row in records if row["title"]}
    require_count(data / INDEX, "annotated entries", len(songs), NUM_ENTRIES)
    files = _audio_files(data / AUDIO)
    split_of = split_songs(songs.values(), VALID_FRACTION, 0.0)
    return [_source(data, item_id, song, split_of[song], files) for item_id, song in songs.items()]


def _source(data: Path, item_id: str, song: str, split: str, files: Mapping[str, str]) -> SourceFile:
    source = f"{AUDIO}/{files.get(item_id, f'{item_id}.mp3')}"
    return SourceFile(data / source, item_id=item_id, song_id=song, source=source, split=split)


def _item_id(number: str, where: Path) -> str:
    if not number.isdecimal():
        raise UsageError(f"{where} has the id {number!r}, which is not a number; fetch it again.")
    return f"{int(number):04d}"


def _audio_files(folder: Path) -> dict[str, str]:
    files: dict[str, str] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if is_named_like_audio(path.name) and files.setdefault(path.stem, path.name) != path.name:
            raise UsageError(f"{folder} has both {files[path.stem]} and {path.name}; keep one of them.")
    return files


PIPELINE = PublishedPipeline(NAME, DATA, read_corpus, PublishedOptions, __doc__)
prepare_corpus, main = PIPELINE.prepare_corpus, PIPELINE.main

if __name__ == "__main__":
    sys.exit(run_command(main))
