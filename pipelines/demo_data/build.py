"""Builds the demo corpus from Debian packages: python -m pipelines.demo_data.build --cache DIR.

The result is committed, so nobody needs this command to use the demo corpus; it shows how the excerpts were made and
can make them again. It downloads about 1.8 GB once, and then takes about two minutes.
"""

import argparse
import hashlib
import io
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile

from clmr_tf.console import progress_bar, run_command, stdout
from clmr_tf.errors import ClmrError
from clmr_tf.files import write_atomically
from pipelines.demo_data.excerpts import (
    EXCERPT_SECONDS,
    SAMPLE_RATE_HZ,
    cut_excerpt,
    decode_mono,
    encode_vorbis,
    loudest_start_seconds,
)
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
from pipelines.preparation.debian_packages import fetch_version, take_files

ARCHIVE_SEPARATOR = "!/"
# Processors and library versions differ in rounding; for a different excerpt it is below 0.5.
MIN_CORRELATION = 0.999


def build(folder: Path, cache: Path) -> tuple[Track, ...]:
    """Makes every excerpt of `folder`/selection.csv and writes audio/, tracks.csv and ATTRIBUTION.md.

    Other files in audio/ are deleted: excerpts that are no longer selected, and files left by a killed build.

    Args:
        folder: The folder of the demo corpus.
        cache: Where Debian packages are kept and unpacked.

    Returns:
        The rows of tracks.csv.

    Raises:
        UsageError: If the selection is invalid or apt does not have a package.
        ClmrError: If a source track is missing, is not the selected one, or cannot be used.
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
        The number of excerpts, and how many of them sound the same but differ in their bytes.

    Raises:
        UsageError: As in `build`, or if there is no tracks.csv.
        ClmrError: As in `build`, or if an excerpt or its row differs from the new one.
    """
    rows = {track.file: track for track in read_tracks(folder)}
    num_excerpts = num_other_bytes = 0
    for track, excerpt in _excerpts(folder, cache):
        row = rows.pop(track.file, None)
        if row is None or row.start_seconds != track.start_seconds or row.split != track.split:
            raise ClmrError(f"{TRACKS_FILE} is out of date for {track.file}; build without --check.")
        stored = (folder / track.file).read_bytes()
        if _correlation(stored, excerpt) < MIN_CORRELATION:
            raise ClmrError(f"{track.file} is not the excerpt that selection.csv gives; build without --check.")
        num_excerpts += 1
        num_other_bytes += stored != excerpt
    if rows:
        raise ClmrError(f"{TRACKS_FILE} names {min(rows)}, which is not selected; build without --check.")
    return num_excerpts, num_other_bytes


def _excerpts(folder: Path, cache: Path) -> Iterator[tuple[Track, bytes]]:
    selection = read_selection(folder)
    splits = assign_splits(selection)
    with progress_bar() as bar:
        for selected in bar.track(selection, description="Excerpts"):
            source = _read_source(selected, selection, cache)
            received = hashlib.sha256(source).hexdigest()
            if received != selected.source_sha256:
                raise ClmrError(
                    f"{selected.source_path} of {selected.package} has SHA-256 {received} instead of "
                    f"{selected.source_sha256}; use package version {selected.package_version}."
                )
            yield _make(selected, splits[selected.song_id], source)


def _read_source(selected: SelectedTrack, selection: Sequence[SelectedTrack], cache: Path) -> bytes:
    deb = fetch_version(selected.package, selected.package_version, cache)
    # All tracks of a package at once, since unpacking reads all of it.
    folder = take_files(deb, [_path_in(track) for track in selection if track.package == selected.package], cache)
    path = _path_in(selected)
    if not (folder / path).is_file():
        raise ClmrError(
            f"Package {selected.package} {selected.package_version} has no file {selected.source_path}; correct the "
            "path in selection.csv."
        )
    return (folder / path).read_bytes()


def _path_in(track: SelectedTrack) -> str:
    return track.source_path.replace(ARCHIVE_SEPARATOR, "/")


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


HELD_OUT_FRACTION = 0.2
MIN_TEST_TRACKS = 2
MIN_VALID_TRACKS = 1


def assign_splits(tracks: Sequence[SelectedTrack]) -> dict[str, str]:
    """Assigns every song to "train", "valid" or "test".

    The splits are stratified by class. In each class, songs of one track come first, ordered by a hash of the track's
    path in its package; they fill test, then valid, with about `HELD_OUT_FRACTION` of the tracks each. Songs of several
    tracks come last and are in train, so that a theme that occurs twice cannot distort a score.

    Args:
        tracks: The whole selection, in any order.

    Returns:
        The split of each `song_id`.
    """
    songs: dict[str, dict[str, list[SelectedTrack]]] = defaultdict(lambda: defaultdict(list))
    for track in tracks:
        songs[track.class_name][track.song_id].append(track)
    splits = {}
    for songs_of_class in songs.values():
        num_tracks = sum(len(song) for song in songs_of_class.values())
        num_held_out = round(HELD_OUT_FRACTION * num_tracks)
        num_left = {"test": max(MIN_TEST_TRACKS, num_held_out), "valid": max(MIN_VALID_TRACKS, num_held_out)}
        for song_id, song in sorted(songs_of_class.items(), key=lambda pair: _order_of(pair[1])):
            split = next((name for name, number in num_left.items() if number > 0), "train")
            splits[song_id] = split
            if split in num_left:
                num_left[split] -= len(song)
    return splits


def _order_of(song: list[SelectedTrack]) -> tuple[int, str]:
    first_path = min(f"{track.package}/{track.source_path}" for track in song)
    return len(song), hashlib.sha256(first_path.encode()).hexdigest()


ATTRIBUTION_FILE = "ATTRIBUTION.md"

_PREFACE = """\
# The music of the demo corpus

<!-- Written by `python -m pipelines.demo_data.build`; change selection.csv, not this page. -->

The files in `audio/` are excerpts of other people's music. **The licence of this repository does not cover
them: every excerpt stays under the licence of the track it was taken from**, which is named with it below.
Where that is a ShareAlike licence (CC-BY-SA), the excerpt, and whatever audio is made from it, is offered under
that licence. None of the authors endorses this project. The tracks come with games that Debian distributes;
`licence_note` in `tracks.csv` quotes where the package states each licence.

What was changed in every excerpt: {seconds} s were cut out of the track (the loudest {seconds} s on a grid of
5 s; the list says where they begin), the channels averaged to mono, the audio resampled to {rate:,} Hz, a
constant offset removed, the level lowered where it would have clipped, and the result encoded again as Ogg
Vorbis.
"""


def attribution_text(tracks: Sequence[Track]) -> str:
    """The text of ATTRIBUTION.md: a preface, the licences, and an entry for each track by class."""
    sections = [_PREFACE.format(seconds=EXCERPT_SECONDS, rate=SAMPLE_RATE_HZ), _licences(tracks)]
    for class_name in dict.fromkeys(track.class_name for track in tracks):
        of_class = [track for track in tracks if track.class_name == class_name]
        entries = "\n".join(_entry(track) for track in of_class)
        sections.append(f"## {class_name}\n\n{entries}\n")
    return "\n".join(sections)


def _licences(tracks: Sequence[Track]) -> str:
    used = sorted({track.licence for track in tracks})
    num_tracks = {name: sum(track.licence == name for track in tracks) for name in used}
    lines = (f"- {name}: {LICENCE_URLS[name]} ({num_tracks[name]} tracks)" for name in used)
    return "## Licences\n\n" + "\n".join(lines) + "\n"


def _entry(track: Track) -> str:
    end_seconds = track.start_seconds + EXCERPT_SECONDS
    return (
        f"- **{track.title}** by {track.author}, [{track.licence}]({LICENCE_URLS[track.licence]}). "
        f"Excerpt `{track.file}`: seconds {track.start_seconds} to {end_seconds} of `{track.source_path}` "
        f"in the Debian package {track.package} {track.package_version}."
    )


def main(arguments: Sequence[str]) -> None:
    """The command, without the program's name in `arguments`."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.demo_data.build", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder for Debian packages (1.8 GB, 4 GB unpacked)")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; compare the existing excerpts with new ones"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if options.check:
        num_excerpts, num_other_bytes = check(FOLDER, options.cache)
        stdout.print(f"{num_excerpts} excerpts match the selection; {num_other_bytes} differ only in their bytes.")
        return
    tracks = build(FOLDER, options.cache)
    num_bytes = sum((FOLDER / track.file).stat().st_size for track in tracks)
    num_classes = len({track.class_name for track in tracks})
    stdout.print(f"{len(tracks)} excerpts of {num_classes} classes, {num_bytes / 1e6:.1f} MB, in {FOLDER}.")


if __name__ == "__main__":
    sys.exit(run_command(main))
