"""Builds the demo corpus from Debian packages: python -m pipelines.demo_data.build --cache DIR.

The result is committed, so nobody needs this command to use the demo corpus; it shows how the excerpts
were made and makes them again. Downloads about 1.8 GB once, then takes about two minutes.
"""

import argparse
import hashlib
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile

from clmr_tf.console import progress_bar, run_command, stdout
from clmr_tf.errors import ClmrError
from clmr_tf.files import write_atomically
from pipelines.demo_data.attribution import ATTRIBUTION_FILE, attribution_text
from pipelines.demo_data.excerpts import cut_excerpt, decode_mono, encode_vorbis, loudest_start_seconds
from pipelines.demo_data.packages import PackageCache
from pipelines.demo_data.splits import assign_splits
from pipelines.demo_data.tables import (
    AUDIO_FOLDER,
    FOLDER,
    LICENCE_URLS,
    TRACKS_FILE,
    SelectedTrack,
    Track,
    read_selection,
    read_tracks,
    tracks_csv,
)

# Other processors and library versions round differently; a different excerpt is below 0.5.
MIN_CORRELATION = 0.999


def build(folder: Path, cache: Path) -> tuple[Track, ...]:
    """Makes every excerpt of `folder`/selection.csv and writes audio/, tracks.csv and ATTRIBUTION.md.

    Other files in audio/ are deleted: excerpts no longer selected, and what a killed build left.

    Args:
        folder: The folder of the demo corpus.
        cache: Where Debian packages are kept and unpacked.

    Returns:
        The rows of tracks.csv.

    Raises:
        UsageError: If the selection is not usable or a package cannot be had.
        ClmrError: If a source track is missing, is another than the one selected, or cannot be used.
    """
    made = []
    for track, excerpt in _excerpts(folder, cache):
        _write(folder / track.file, excerpt)
        made.append(track)
    tracks = tuple(made)
    _write(folder / ATTRIBUTION_FILE, attribution_text(tracks).encode())
    _write(folder / TRACKS_FILE, tracks_csv(tracks).encode())
    wanted = {folder / track.file for track in tracks}
    for file in (folder / AUDIO_FOLDER).rglob("*"):
        if file.is_file() and file not in wanted:
            file.unlink()
    return tracks


def check(folder: Path, cache: Path) -> tuple[int, int]:
    """Makes every excerpt again, in memory, and compares it with the one in `folder`.

    Returns:
        The number of excerpts, and how many of them differ in bytes though they sound the same.

    Raises:
        UsageError: As in `build`, or if there is no tracks.csv.
        ClmrError: As in `build`, or if an excerpt or its row differs from what is made now.
    """
    rows = {track.file: track for track in read_tracks(folder)}
    num_excerpts = num_other_bytes = 0
    for track, excerpt in _excerpts(folder, cache):
        row = rows.pop(track.file, None)
        if row is None or row.start_seconds != track.start_seconds or row.split != track.split:
            raise ClmrError(f"{TRACKS_FILE} is out of date for {track.file}; build without --check.")
        stored = (folder / track.file).read_bytes()
        if _correlation(stored, excerpt) < MIN_CORRELATION:
            raise ClmrError(f"{track.file} is another excerpt than selection.csv gives; build without --check.")
        num_excerpts += 1
        num_other_bytes += stored != excerpt
    if rows:
        raise ClmrError(f"{TRACKS_FILE} names {min(rows)}, which is not selected; build without --check.")
    return num_excerpts, num_other_bytes


def _excerpts(folder: Path, cache: Path) -> Iterator[tuple[Track, bytes]]:
    selection = read_selection(folder)
    splits = assign_splits(selection)
    packages = PackageCache(cache)
    with progress_bar() as bar:
        for selected in bar.track(selection, description="Excerpts"):
            source = packages.read(selected.package, selected.package_version, selected.source_path)
            received = hashlib.sha256(source).hexdigest()
            if received != selected.source_sha256:
                raise ClmrError(
                    f"{selected.source_path} of {selected.package} has SHA-256 {received} instead of "
                    f"{selected.source_sha256}; use package version {selected.package_version}."
                )
            yield _make(selected, splits[selected.song_id], source)


def _make(selected: SelectedTrack, split: str, source: bytes) -> tuple[Track, bytes]:
    audio = decode_mono(source)
    start_seconds = loudest_start_seconds(audio)
    excerpt = encode_vorbis(
        cut_excerpt(audio, start_seconds), selected.title, selected.author, LICENCE_URLS[selected.licence]
    )
    row = Track(
        file=selected.file,
        split=split,
        start_seconds=start_seconds,
        excerpt_sha256=hashlib.sha256(excerpt).hexdigest(),
        **vars(selected),
    )
    return row, excerpt


def _correlation(first: bytes, second: bytes) -> float:
    first_audio, _ = soundfile.read(io.BytesIO(first))
    second_audio, _ = soundfile.read(io.BytesIO(second))
    if len(first_audio) != len(second_audio):
        return 0.0
    return float(np.corrcoef(first_audio, second_audio)[0, 1])


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)


def _command(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.demo_data.build", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder for Debian packages (1.8 GB, 4 GB unpacked)")
    parser.add_argument(
        "--check", action="store_true", help="write nothing, compare what would be written with what is there"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if options.check:
        num_excerpts, num_other_bytes = check(FOLDER, options.cache)
        stdout.print(f"{num_excerpts} excerpts are the selected ones; {num_other_bytes} differ in bytes only.")
        return
    tracks = build(FOLDER, options.cache)
    num_bytes = sum((FOLDER / track.file).stat().st_size for track in tracks)
    num_classes = len({track.class_name for track in tracks})
    stdout.print(f"{len(tracks)} excerpts of {num_classes} classes, {num_bytes / 1e6:.1f} MB, in {FOLDER}.")


if __name__ == "__main__":
    sys.exit(run_command(_command))
