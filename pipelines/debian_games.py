"""Music of games, out of Debian packages.

    python -m pipelines.debian_games --set small

small is 12.6 hours of five packages, 585 MB to fetch; medium is 21 hours of 25 packages, 1.3 GB. They are fetched with
apt-get into the cache and unpacked there; nothing is installed, nobody needs to be root, and a second start fetches
only what is missing. The machine needs the package lists of Debian 12 or 13 (apt-get update). The published list of
recordings is that of Debian 12; a warning and the manifest say what differs from it. Every package is free to use
and to share; LICENCES.md in the corpus says under which licence each one is.

The corpus has the tasks "soundtrack" and "artist"; docs/debian_games.md says what they are good for.
`python -m pipelines.pseudo_tags` adds a third one.
"""

import collections
import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from clmr_tf.command_line import parse_command
from clmr_tf.console import notes, results, run_command
from clmr_tf.corpus import MANIFEST_FILE, Corpus
from clmr_tf.corpus_tasks import write_task
from clmr_tf.errors import UsageError
from clmr_tf.files import write_atomically
from pipelines.debian_games_found import FoundTracks, find_tracks
from pipelines.debian_games_tracks import (
    TABLE,
    Track,
    artist_task,
    read_tracks,
    soundtrack_task,
    split_of_songs,
    tracks_of_set,
)
from pipelines.destination import default_destination
from pipelines.prepare import prepare
from pipelines.progress import shown_progress, summarise
from pipelines.reuse import opened_if_finished
from pipelines.settings import PrepareSettings
from pipelines.sources import SourceFile

PIPELINE, NAME = "debian_games", "debian-games"
CACHE = Path("downloads") / NAME


@dataclasses.dataclass(frozen=True)
class Options(PrepareSettings):
    """The command line."""

    set: Literal["small", "medium"] = "small"
    """How much music."""
    out: Path | None = None
    """Folder that becomes the corpus: new, empty, or interrupted; corpora/debian_games if not given, as for
    --corpus debian_games of other commands, or corpora/debian_games-medium."""
    cache: Path | None = None
    """Folder that keeps the packages and their music; downloads/debian-games beside the corpus if not given."""
    leave_out: tuple[str, ...] = ()
    """Packages to do without, by their names in the published list; what this system lacks is left out anyway."""


def prepare_corpus(destination: Path, settings: PrepareSettings, table: Path = TABLE) -> Corpus:
    """Prepares one of the sets with its tasks, continues or reuses what is there, see `prepare`.

    Args:
        destination: Folder of the corpus.
        settings: How files are decoded, and if they are `Options`, what is fetched and where it is kept.
        table: The table of tracks.

    Raises:
        UsageError: If apt or dpkg-deb is missing, or too little of the set is there; and as `prepare`.
        ClmrError: If a package cannot be fetched or read.
    """
    options = settings if isinstance(settings, Options) else Options(**dataclasses.asdict(settings))
    all_tracks = read_tracks(table)
    tracks = _chosen(tracks_of_set(all_tracks, options.set), options.leave_out)
    splits = split_of_songs(all_tracks)
    corpus = _finished(destination, options)
    if corpus is None:
        corpus = _fetch_and_prepare(tracks, splits, destination, options)
    _write_beside(corpus, tracks, splits, all_tracks)
    return corpus


def _finished(destination: Path, options: Options) -> Corpus | None:
    # What is finished needs neither apt-get nor the packages.
    if not (destination / MANIFEST_FILE).is_file():
        return None
    there = Corpus.open(destination).manifest
    outline = dataclasses.replace(
        there,
        sample_rate_hz=options.sample_rate_hz,
        storage=options.reader,
        source={**there.source, **_manifest_options(options)},
    )
    return opened_if_finished(destination, outline, options.min_num_samples)


def _manifest_options(options: Options) -> dict[str, str]:
    return {"set": options.set, "leave_out": ", ".join(sorted(options.leave_out))}


def _fetch_and_prepare(
    tracks: Sequence[Track], splits: Mapping[str, str], destination: Path, options: Options
) -> Corpus:
    found = find_tracks(tracks, options.cache or destination.parent / CACHE)
    differences = found.differences()
    if differences:
        notes.print(f"warning: {differences}.", style="yellow", markup=False)
    _require_enough(found, options)
    sources = [
        SourceFile(path, track.item_id, track.song, track.item_id, splits[track.song])
        for track, path in found.files.items()
    ]
    versions = ", ".join(f"{package.name} {package.version}" for package in found.packages.values())
    of_packages = "; ".join(f"{name}: {text}" for name, text in licences(found.files).items())
    with shown_progress(NAME) as on_progress:
        return prepare(
            sources,
            destination,
            PrepareSettings(**{f.name: getattr(options, f.name) for f in dataclasses.fields(PrepareSettings)}),
            name=f"{NAME}-{options.set}",
            tag_names=(),
            source_description=f"music of games in the Debian packages {versions}; "
            f"{differences or 'all recordings are those of the published list'}; licences: {of_packages}",
            options=_manifest_options(options),
            rejected=found.skipped,
            on_progress=on_progress,
        )


def _require_enough(found: FoundTracks, options: Options) -> None:
    num_listed = len(found.files) + len(found.skipped)
    if not found.files or len(found.skipped) > options.max_skipped_share * num_listed:
        raise UsageError(
            f"Only {len(found.files)} of the {num_listed} recordings of the set {options.set} are in this system's "
            "packages; have the main section of Debian 12 or 13 in apt's sources and run `apt-get update` as root, or "
            "allow a larger --max-skipped-share."
        )


def licences(tracks: Iterable[Track]) -> dict[str, str]:
    """The licences of each package's music, the most frequent first: "25 CC-BY-SA-3.0, 22 GPL-2"."""
    counts: dict[str, collections.Counter] = {}
    for track in tracks:
        counts.setdefault(track.package, collections.Counter())[track.licence] += 1
    return {
        name: ", ".join(f"{count} {licence}" for licence, count in counter.most_common())
        for name, counter in counts.items()
    }


def _chosen(tracks: Sequence[Track], leave_out: Sequence[str]) -> list[Track]:
    packages = {track.package for track in tracks}
    if unknown := set(leave_out) - packages:
        raise UsageError(f"There is no package {min(unknown)} to leave out; there are {', '.join(sorted(packages))}.")
    if set(leave_out) == packages:
        raise UsageError("All packages are left out; keep at least one.")
    return [track for track in tracks if track.package not in leave_out]


def _write_beside(
    corpus: Corpus, tracks: Sequence[Track], splits: Mapping[str, str], all_tracks: Sequence[Track]
) -> None:
    usable = {item.id for item in corpus.items}
    tracks = [track for track in tracks if track.item_id in usable]
    for make in (lambda: soundtrack_task(tracks, splits), lambda: artist_task(tracks, splits, all_tracks)):
        try:
            task = make()
        except ValueError:
            # Too little is left for a single class.
            continue
        write_task(task, corpus.folder)
    rows = [f"| {name} | {text} |" for name, text in licences(tracks).items()]
    text = "# Licences\n\n| Debian package | tracks and their licence |\n|---|---|\n" + "\n".join(rows) + "\n"
    note = "\nThe authors and the licences in full are in /usr/share/doc/PACKAGE/copyright of each package.\n"
    write_atomically(corpus.folder / "LICENCES.md", text + note)


def _default_out(options: Options) -> Path:
    # The small set is what `--corpus debian_games` means.
    return default_destination(PIPELINE if options.set == "small" else f"{PIPELINE}-{options.set}", options)


def main(arguments: Sequence[str]) -> None:
    """The command, without the program's name in `arguments`."""
    options = parse_command(Options, arguments, program="python -m pipelines.debian_games", description=__doc__)
    corpus = prepare_corpus((options.out or _default_out(options)).expanduser(), options)
    results.print(summarise(corpus), markup=False)


if __name__ == "__main__":
    sys.exit(run_command(main))
