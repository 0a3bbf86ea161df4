"""The Free Music Archive dataset in its published split: 8,000, 25,000 or 106,574 clips of 30 seconds, up to 16 genres.

    python -m pipelines.fma --size medium --download

Split (train, valid, test): small 6,400, 800, 800, with eight genres of the same size; medium 19,922, 2,505, 2,573,
with sixteen genres; large 84,353, 11,263, 10,958, of which about half have a genre. No artist is in two splits. The one
tag of a clip is its top genre.

Source: Defferrard et al. 2017, https://github.com/mdeff/fma; every artist chose a Creative Commons licence (column
track/license of tracks.csv), the metadata are CC BY 4.0. --download fetches 0.3 GB and 7, 22 or 93 GB.

Expected files, in data/fma or the folder given with --data:

    fma_metadata/tracks.csv            from fma_metadata.zip
    fma_medium/000/000002.mp3 ...      from fma_medium.zip; for other sizes fma_small, fma_large
"""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

from clmr_tf.console import run_command, stderr
from clmr_tf.errors import UsageError
from pipelines.preparation.command import DownloadOptions
from pipelines.preparation.downloads import RemoteFile, UnpackingLimits, done_once, fetch, unpack_zip
from pipelines.preparation.published import DATA as ALL_DATA
from pipelines.preparation.published import PublishedCorpus, PublishedPipeline, require_files
from pipelines.preparation.sources import SourceFile, read_rows, require_split_counts

NAME = "fma"
DATA = ALL_DATA / NAME
TRACKS = "fma_metadata/tracks.csv"
SPLITS = {"training": "train", "validation": "valid", "test": "test"}
Size = Literal["small", "medium", "large"]
# Each subset contains the smaller ones.
SIZES = get_args(Size)
NUM_CLIPS = {
    "small": {"train": 6_400, "valid": 800, "test": 800},
    "medium": {"train": 19_922, "valid": 2_505, "test": 2_573},
    "large": {"train": 84_353, "valid": 11_263, "test": 10_958},
}
_HOST = "https://os.unil.cloud.switch.ch/fma/"
# SHA-1 as in the README there; nothing better was published.
_SHA1 = {
    "fma_metadata": "f0df49ffe5f2a6008d7dc83c6915b31835dfe733",
    "fma_small": "ade154f733639d52e35e32f5593efe5be76c6d70",
    "fma_medium": "c67b69ea232021025fca9231fc1c7c1a063ab50b",
    "fma_large": "497109f4dd721066b5ce5e5f250ec604dc78939e",
}
_LIMITS = UnpackingLimits(num_bytes=200 * 10**9)


@dataclasses.dataclass(frozen=True)
class FmaOptions(DownloadOptions):
    """The command line."""

    size: Size = "medium"
    """Subset; the paper trains on medium."""


def read_corpus(options: FmaOptions, data: Path) -> PublishedCorpus:
    """Downloads the files if the options say so, and reads what the published tables say about the corpus.

    Raises:
        UsageError: If tracks.csv is missing, cannot be read or does not have the published counts.
    """
    if options.download:
        for name in ("fma_metadata", f"fma_{options.size}"):
            _download(name, data)
    sources = read_sources(data, options.size)
    return PublishedCorpus(
        name=f"fma-{options.size}",
        tag_names=sorted({tag for source in sources for tag in source.tags}),
        sources=sources,
        description="FMA: A Dataset For Music Analysis, https://github.com/mdeff/fma",
    )


def read_sources(data: Path, size: str) -> list[SourceFile]:
    """Reads the clips of a subset; every track is a song.

    Raises:
        UsageError: See `read_corpus`.
    """
    require_files(data, [TRACKS], f"pipelines.{NAME}")
    wanted = SIZES[: SIZES.index(size) + 1]
    sources = []
    for track, split, subset, genre in _read_tracks(data / TRACKS):
        if subset in wanted:
            source = f"fma_{size}/{int(track) // 1000:03d}/{int(track):06d}.mp3"
            sources.append(SourceFile(data / source, track, track, source, split, (genre,) if genre else ()))
    require_split_counts(f"The subset {size} in {data / TRACKS}", sources, NUM_CLIPS[size])
    return sources


def _read_tracks(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """Track, split, subset and genre of every row; two rows name the columns, a third one says "track_id"."""
    rows = read_rows(path, ",")
    columns = list(zip(next(rows, []), next(rows, []), strict=False))
    index_row = next(rows, [""])
    places = {column: place for place, column in enumerate(columns)}
    needed = [places.get(column) for column in (("set", "split"), ("set", "subset"), ("track", "genre_top"))]
    if None in needed or index_row[0] != "track_id":
        raise UsageError(f"{path} does not begin with the three header rows of FMA's tables; fetch it again.")
    for row in rows:
        if len(row) != len(columns) or not row[0].isdecimal() or row[needed[0]] not in SPLITS:
            raise UsageError(f"{path} has a row that begins with {row[:2]} and is not a track; fetch it again.")
        split, subset, genre = (row[place] for place in needed)
        yield row[0], SPLITS[split], subset, genre


def _download(name: str, data: Path) -> None:
    with done_once(data / f"{name}-is-complete") as is_missing:
        if is_missing:
            archive = fetch(RemoteFile(f"{name}.zip", f"{_HOST}{name}.zip", f"sha1:{_SHA1[name]}"), data)
            stderr.print(f"Unpacking {archive} ...", markup=False)
            unpack_zip(archive, data, _LIMITS)


PIPELINE = PublishedPipeline(NAME, DATA, read_corpus, FmaOptions, __doc__)
prepare_corpus, main = PIPELINE.prepare_corpus, PIPELINE.main

if __name__ == "__main__":
    sys.exit(run_command(main))
