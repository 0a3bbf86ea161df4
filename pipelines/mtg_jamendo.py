"""MTG-Jamendo, the 50 most frequent tags in split 0: 54,380 full tracks.

    python -m pipelines.mtg_jamendo

Split: 32,136 train, 10,888 valid, 11,356 test; no artist is in two splits. Tags are genres, instruments and moods, as
"genre---rock".

Source: Bogdanov et al. 2019, https://github.com/MTG/mtg-jamendo-dataset; every artist chose a Creative Commons
licence (audio_licenses.txt there), the metadata are CC BY-NC-SA 4.0. The audio is 508 GB in a hundred archives, less
in lower quality, which the script of that repository fetches and checks:

    python3 scripts/download/download.py --dataset raw_30s --type audio-low --unpack --remove .../audio

Expected files, in data/mtg_jamendo or the folder given with --data:

    audio/34/786434.mp3 ...                the unpacked archives; 786434.low.mp3 also works
    autotagging_top50tags-train.tsv,       the tables in data/splits/split-0 of the repository
    autotagging_top50tags-validation.tsv,
    autotagging_top50tags-test.tsv
"""

import sys
from pathlib import Path, PurePosixPath

from clmr_tf.console import run_command
from clmr_tf.errors import UsageError
from pipelines.preparation.command import PublishedOptions
from pipelines.preparation.published import DATA as ALL_DATA
from pipelines.preparation.published import PublishedCorpus, PublishedPipeline, require_files
from pipelines.preparation.sources import SourceFile, read_rows, require_count, require_split_counts

NAME = "mtg_jamendo"
CORPUS_NAME = "mtg-jamendo-top50-split0"
DATA = ALL_DATA / NAME
AUDIO = "audio"
TABLES = {
    "train": "autotagging_top50tags-train.tsv",
    "valid": "autotagging_top50tags-validation.tsv",
    "test": "autotagging_top50tags-test.tsv",
}
COLUMNS = ["TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS"]
NUM_TRACKS = {"train": 32_136, "valid": 10_888, "test": 11_356}
NUM_TAGS = 50


def read_corpus(_: PublishedOptions, data: Path) -> PublishedCorpus:
    """Reads what the published tables say about the corpus.

    Raises:
        UsageError: If a table is missing, cannot be read or does not have the published counts.
    """
    sources = read_sources(data)
    # The published list, data/tags/top50.txt, is in alphabetical order.
    tag_names = sorted({tag for source in sources for tag in source.tags})
    require_count(f"The split {CORPUS_NAME}", "tags", len(tag_names), NUM_TAGS)
    return PublishedCorpus(
        name=CORPUS_NAME,
        tag_names=tag_names,
        sources=sources,
        description="MTG-Jamendo, https://github.com/MTG/mtg-jamendo-dataset",
    )


def read_sources(data: Path) -> list[SourceFile]:
    """Reads the three tables; every track is a song.

    Raises:
        UsageError: See `read_corpus`.
    """
    require_files(data, TABLES.values(), f"pipelines.{NAME}")
    sources = []
    for split, name in TABLES.items():
        rows = read_rows(data / name, "\t")
        if next(rows, []) != COLUMNS:
            raise UsageError(f"{data / name} does not begin with the columns {' '.join(COLUMNS)}; fetch it again.")
        sources += [_source(data, row, split, data / name) for row in rows]
    require_split_counts(f"The split {CORPUS_NAME}", sources, NUM_TRACKS)
    return sources


def _source(data: Path, row: list[str], split: str, where: Path) -> SourceFile:
    # Every tag is a separate field, so rows have different lengths.
    track, path, tags = row[0], "".join(row[3:4]), tuple(row[5:])
    if not tags or PurePosixPath(path).is_absolute() or ".." in path or not path.endswith(".mp3"):
        raise UsageError(f"{where} has a row that begins with {row[:4]} and is not a track; fetch it again.")
    low = f"{AUDIO}/{path.removesuffix('.mp3')}.low.mp3"
    source = low if (data / low).is_file() else f"{AUDIO}/{path}"
    return SourceFile(data / source, track, track, source, split, tags)


PIPELINE = PublishedPipeline(NAME, DATA, read_corpus, PublishedOptions, __doc__)
prepare_corpus, main = PIPELINE.prepare_corpus, PIPELINE.main

if __name__ == "__main__":
    sys.exit(run_command(main))
