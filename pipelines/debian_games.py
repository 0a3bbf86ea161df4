"""Game music from Debian packages.

    python -m pipelines.debian_games --set small

small is 12.6 hours from five packages, a download of 585 MB; medium is 21 hours from 25 packages, 1.3 GB. apt-get
downloads them into the cache, where they are unpacked. Nothing is installed, root is not needed, and a second run
downloads only missing packages. The machine needs the package lists of Debian 12 or 13 (apt-get update). The published
list of recordings was made on Debian 12; a warning and the manifest report differences. Every package is free to use
and to share; LICENCES.md in the corpus names the licences.

The corpus has the tasks "soundtrack" and "artist"; docs/debian_games.md describes their uses.
`python -m pipelines.pseudo_tags` adds a third one.
"""

import collections
import dataclasses
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from clmr_tf.audio.listing import SkippedFile
from clmr_tf.config.command_line import parse_command
from clmr_tf.console import run_command, stderr, stdout
from clmr_tf.data.corpus import MANIFEST_FILE, Corpus
from clmr_tf.data.tasks import CorpusTask, Label, write_task
from clmr_tf.errors import UsageError
from clmr_tf.files import sha256_of, write_atomically
from pipelines.preparation.command import prepare_shown, summarise
from pipelines.preparation.debian_packages import Package, fetch_package, find_packages, take_files, version_in_name
from pipelines.preparation.prepare import Preparation, PrepareSettings, default_destination, opened_if_finished
from pipelines.preparation.sources import SourceFile, read_records, split_songs

_Key = TypeVar("_Key", bound=Hashable)

TABLE = Path(__file__).parent / "debian_games.csv"
SETS = ("small", "medium")
MIN_SONGS_PER_CLASS = 8
VALID_FRACTION, TEST_FRACTION = 0.1, 0.2
# An artist's games are held out for the test only if at least this many songs remain for training.
_MIN_SONGS_LEFT = 6


@dataclasses.dataclass(frozen=True)
class Track:
    """One recording, a row of the table; the attributes are its columns."""

    set: str
    package: str
    path: str
    game: str
    artist: str
    song: str
    licence: str
    sha256: str

    @property
    def item_id(self) -> str:
        """Name of its item in the corpus."""
        return f"{self.package}/{self.path}"

    @property
    def original_game(self) -> str:
        """The game that its song is from; differs from `game` if the recording is a copy."""
        return self.song.split("/")[0]


def read_tracks(table: Path = TABLE) -> list[Track]:
    """The rows of the table, in its order.

    Raises:
        UsageError: If it cannot be read or has other columns.
    """
    columns = [field.name for field in dataclasses.fields(Track)]
    return [Track(*(row[column] for column in columns)) for row in read_records(table, ",", columns)]


def tracks_of_set(tracks: Iterable[Track], name: str) -> list[Track]:
    """The tracks of "small" or "medium"; medium includes small."""
    wanted = SETS[: SETS.index(name) + 1]
    return [track for track in tracks if track.set in wanted]


def split_of_songs(tracks: Sequence[Track]) -> dict[str, str]:
    """Puts the songs of the whole table into "train", "valid" and "test": 70, 10 and 20 %.

    A hash of the song decides, separately within every game and within every artist of a game who has enough songs for
    a class, so that each class has songs in each split. The splits are the same on every machine and in every set, even
    if recordings are missing. Songs of `games_for_test` are in "test".
    """
    held_out = {song for songs in _songs_for_test(tracks).values() for song in songs}
    artists = _songs_by(tracks, lambda track: (track.original_game, track.artist))
    strata: dict[tuple[str, str], set[str]] = {}
    for (game, artist), songs in artists.items():
        is_class = artist and len(songs) >= MIN_SONGS_PER_CLASS
        strata.setdefault((game, artist if is_class else ""), set()).update(songs)
    splits = dict.fromkeys(held_out, "test")
    taken: set[str] = set()
    # A song with two artists is assigned with those of the larger stratum.
    for songs in sorted(strata.values(), key=lambda songs: (-len(songs), min(songs))):
        drawn = songs - held_out - taken
        taken |= drawn
        if drawn:
            num_test = max(0, round(TEST_FRACTION * len(drawn | (songs & held_out))) - len(songs & held_out))
            splits.update(split_songs(drawn, VALID_FRACTION, num_test / len(drawn)))
    return splits


def games_for_test(tracks: Sequence[Track]) -> dict[str, tuple[str, ...]]:
    """The games that the task "artist" holds out for the test, for each artist of several games.

    The artist's game with the most songs is for training. No game is held out if too few songs would remain.
    """
    games_of: dict[str, dict[str, set[str]]] = {}
    for (artist, game), songs in _songs_by(tracks, lambda track: (track.artist, track.original_game)).items():
        games_of.setdefault(artist, {})[game] = songs
    held_out = {}
    for artist, games in games_of.items():
        others = sorted(games, key=lambda game: (-len(games[game]), game))[1:]
        num_songs = sum(map(len, games.values()))
        num_left = num_songs - sum(len(games[game]) for game in others)
        if artist and others and num_songs >= MIN_SONGS_PER_CLASS and num_left >= _MIN_SONGS_LEFT:
            held_out[artist] = tuple(others)
    return held_out


def soundtrack_task(tracks: Sequence[Track], splits: Mapping[str, str]) -> CorpusTask:
    """The game of a track, for games with enough songs; the splits are those of the corpus.

    Args:
        tracks: The existing tracks of a set.
        splits: The split of every song.
    """
    # A copy of another game's song would be two classes at once.
    own = [track for track in tracks if track.original_game == track.game]
    classes = _classes(own, lambda track: track.game)
    return CorpusTask(
        name="soundtrack",
        description="The game that a track is from. Bit rate, codec and loudness differ from game to game as well.",
        tag_names=classes,
        single_label=True,
        items={track.item_id: Label(splits[track.song], (track.game,)) for track in own if track.game in set(classes)},
    )


def artist_task(tracks: Sequence[Track], splits: Mapping[str, str], all_tracks: Sequence[Track]) -> CorpusTask:
    """The artist of a track, for artists with enough songs.

    The splits are those of the corpus, except for the artists in `games_for_test`: their test songs are from other
    games than their training songs, so songs from a training game are in "train" even if the corpus has them in "test".

    Args:
        tracks: The existing tracks of a set.
        splits: The split of every song.
        all_tracks: The whole table.
    """
    # A copy has the label of its song, but not the sound of its game.
    own = [track for track in tracks if track.original_game == track.game]
    classes = _classes(own, lambda track: track.artist)
    for_test = _songs_for_test(all_tracks)
    items = {}
    for track in own:
        if track.artist in set(classes):
            split = splits[track.song]
            if track.artist in for_test and split == "test" and track.song not in for_test[track.artist]:
                split = "train"
            items[track.item_id] = Label(split, (track.artist,))
    return CorpusTask(
        name="artist",
        description="Who made a track, where the package says it; one game in training and another in the test where "
        f"an artist has songs in several ({', '.join(sorted(set(for_test) & set(classes))) or 'none here'}).",
        tag_names=classes,
        single_label=True,
        items=items,
    )


def _songs_for_test(tracks: Sequence[Track]) -> dict[str, set[str]]:
    games = games_for_test(tracks)
    return {
        artist: {track.song for track in tracks if track.artist == artist and track.original_game in games[artist]}
        for artist in games
    }


def _songs_by(tracks: Iterable[Track], key: Callable[[Track], _Key]) -> dict[_Key, set[str]]:
    songs: dict[_Key, set[str]] = collections.defaultdict(set)
    for track in tracks:
        songs[key(track)].add(track.song)
    return songs


def _classes(tracks: Iterable[Track], key: Callable[[Track], str]) -> tuple[str, ...]:
    songs = _songs_by(tracks, key)
    return tuple(sorted(name for name in songs if name and len(songs[name]) >= MIN_SONGS_PER_CLASS))


NO_PACKAGE, NOT_IN_PACKAGE = "no_package", "not_in_package"


@dataclasses.dataclass(frozen=True)
class FoundTracks:
    """The recordings of the list that were found, and the differences from the list.

    Attributes:
        files: The file of each track that was found, in the order of the list.
        packages: The packages that this system has, by their names in the list.
        skipped: The tracks that were not found, with the reason.
        changed: The tracks whose file has other bytes than in the list.
    """

    files: Mapping[Track, Path]
    packages: Mapping[str, Package]
    skipped: Sequence[SkippedFile]
    changed: Sequence[Track]

    def differences(self) -> str | None:
        """The differences from the published list, as one sentence without a full stop; None if there are none."""
        parts = [
            f"{package.name} {package.version} is used instead of {name}"
            for name, package in self.packages.items()
            if package.name != name
        ]
        for reason, words in ((NO_PACKAGE, "there is no package"), (NOT_IN_PACKAGE, "recordings are not in")):
            absent = _counts(file.source.split("/")[0] for file in self.skipped if file.reason == reason)
            if absent:
                parts.append(f"{words} {absent}")
        if self.changed:
            parts.append(f"recordings have changed in {_counts(track.package for track in self.changed)}")
        if not parts:
            return None
        num_listed = len(self.files) + len(self.skipped)
        return f"{len(self.files)} of the {num_listed} recordings of the published list were found: {'; '.join(parts)}"


def find_tracks(tracks: Sequence[Track], cache: Path) -> FoundTracks:
    """Downloads and unpacks the packages of some tracks.

    Args:
        tracks: Tracks of the list.
        cache: Folder for the packages and their music.

    Raises:
        UsageError: If apt or dpkg-deb is missing, or apt can download none of the packages.
        ClmrError: If a package cannot be downloaded or read.
    """
    packages = find_packages(list(dict.fromkeys(track.package for track in tracks)))
    places: dict[Track, Path] = {}
    for name, package in packages.items():
        paths = {track: _path_in(package, track) for track in tracks if track.package == name}
        folder = take_files(fetch_package(package, cache), list(paths.values()), cache)
        places.update((track, folder / path) for track, path in paths.items())
    files = {track: places[track] for track in tracks if track in places and places[track].is_file()}
    return FoundTracks(
        files=files,
        packages=packages,
        skipped=[_skipped(track, packages.get(track.package)) for track in tracks if track not in files],
        changed=[track for track, path in files.items() if sha256_of(path) != track.sha256],
    )


def _path_in(package: Package, track: Track) -> str:
    # A package with a version in its name usually has it in its paths, too.
    before, now = version_in_name(track.package), version_in_name(package.name)
    return track.path if before == now else track.path.replace(f"/{before}/", f"/{now}/")


def _skipped(track: Track, package: Package | None) -> SkippedFile:
    if package is None:
        return SkippedFile(track.item_id, NO_PACKAGE, f"this system has no package {track.package}")
    return SkippedFile(track.item_id, NOT_IN_PACKAGE, f"{package.name} {package.version} does not contain it")


def _counts(packages: Iterable[str]) -> str:
    """How many recordings by package: "pushover-data (10), zaz-data (1)"."""
    return ", ".join(f"{name} ({count})" for name, count in collections.Counter(packages).items())


PIPELINE, NAME = "debian_games", "debian-games"
CACHE = Path("downloads") / NAME


@dataclasses.dataclass(frozen=True)
class Options(PrepareSettings):
    """The command line."""

    set: Literal["small", "medium"] = "small"
    """Size of the corpus."""
    out: Path | None = None
    """Folder for the corpus: new, empty, or from an interrupted preparation; by default corpora/debian_games, where
    --corpus debian_games looks for it, or corpora/debian_games-medium."""
    cache: Path | None = None
    """Folder for the packages and their music; by default downloads/debian-games next to the corpus."""
    leave_out: tuple[str, ...] = ()
    """Packages to leave out, by their names in the published list; missing packages are always left out."""
    licences: tuple[str, ...] = ()
    """Keep only recordings under one of these licences, such as CC-BY-3.0 CC-BY-SA-3.0 MIT public-domain. A recording
    under "A or B" has both. Default: all."""


def prepare_corpus(destination: Path, settings: PrepareSettings, table: Path = TABLE) -> Corpus:
    """Prepares one of the sets with its tasks; continues or reuses an existing corpus, see `prepare`.

    Args:
        destination: Folder of the corpus.
        settings: How files are decoded; if they are `Options`, also the set and the cache.
        table: The table of tracks.

    Raises:
        UsageError: If apt, dpkg-deb or too many recordings of the set are missing; see also `prepare`.
        ClmrError: If a package cannot be downloaded or read.
    """
    options = settings if isinstance(settings, Options) else Options(**dataclasses.asdict(settings))
    all_tracks = read_tracks(table)
    tracks = _without_packages(tracks_of_set(all_tracks, options.set), options.leave_out)
    tracks = _with_licences(tracks, options.licences)
    splits = split_of_songs(all_tracks)
    corpus = _finished(destination, options)
    if corpus is None:
        corpus = _fetch_and_prepare(tracks, splits, destination, options)
    _write_beside(corpus, tracks, splits, all_tracks)
    return corpus


def _finished(destination: Path, options: Options) -> Corpus | None:
    # A finished corpus needs neither apt-get nor the packages.
    if not (destination / MANIFEST_FILE).is_file():
        return None
    manifest = Corpus.open(destination).manifest
    source = {name: value for name, value in manifest.source.items() if name != _LICENCES_ENTRY}
    outline = dataclasses.replace(
        manifest,
        sample_rate_hz=options.sample_rate_hz,
        storage=options.storage,
        source={**source, **_manifest_options(options)},
    )
    return opened_if_finished(destination, outline, options.min_num_samples)


# In the manifest only if --licences was given; corpora of older versions have all licences.
_LICENCES_ENTRY = "only_licences"


def _manifest_options(options: Options) -> dict[str, str]:
    entries = {"set": options.set, "leave_out": ", ".join(sorted(options.leave_out))}
    return entries | ({_LICENCES_ENTRY: ", ".join(sorted(options.licences))} if options.licences else {})


def _fetch_and_prepare(
    tracks: Sequence[Track], splits: Mapping[str, str], destination: Path, options: Options
) -> Corpus:
    found = find_tracks(tracks, (options.cache or destination.parent / CACHE).expanduser())
    differences = found.differences()
    if differences:
        stderr.print(f"warning: {differences}.", style="yellow", markup=False)
    _require_enough(found, options)
    sources = [
        SourceFile(path, track.item_id, track.song, track.item_id, splits[track.song])
        for track, path in found.files.items()
    ]
    versions = ", ".join(f"{package.name} {package.version}" for package in found.packages.values())
    of_packages = "; ".join(f"{name}: {text}" for name, text in licences(found.files).items())
    return prepare_shown(
        Preparation(
            destination,
            PrepareSettings(**{f.name: getattr(options, f.name) for f in dataclasses.fields(PrepareSettings)}),
            sources,
            # Scores on a part of the set cannot be compared with those on all of it.
            name=f"{NAME}-{options.set}" + ("-selection" if options.leave_out or options.licences else ""),
            tag_names=(),
            source_description=f"game music from the Debian packages {versions}; "
            f"{differences or 'all recordings are those of the published list'}; licences: {of_packages}",
            options=_manifest_options(options),
            rejected=found.skipped,
        )
    )


def _require_enough(found: FoundTracks, options: Options) -> None:
    num_listed = len(found.files) + len(found.skipped)
    if not found.files or len(found.skipped) > options.max_skipped_fraction * num_listed:
        raise UsageError(
            f"Only {len(found.files)} of the {num_listed} recordings of the set {options.set} are in this system's "
            "packages; add the main section of Debian 12 or 13 to apt's sources and run `apt-get update` as root, or "
            "allow a larger --max-skipped-fraction."
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


def _without_packages(tracks: Sequence[Track], leave_out: Sequence[str]) -> list[Track]:
    packages = {track.package for track in tracks}
    if unknown := set(leave_out) - packages:
        raise UsageError(f"There is no package {min(unknown)} to leave out; choose from {', '.join(sorted(packages))}.")
    if set(leave_out) == packages:
        raise UsageError("All packages are left out; keep at least one.")
    return [track for track in tracks if track.package not in leave_out]


def _with_licences(tracks: Sequence[Track], names: Sequence[str]) -> list[Track]:
    if not names:
        return list(tracks)
    existing = {name for track in tracks for name in track.licence.split(" or ")}
    if unknown := set(names) - existing:
        raise UsageError(
            f"No recording is under the licence {min(unknown)}; choose from {', '.join(sorted(existing))}."
        )
    return [track for track in tracks if not set(names).isdisjoint(track.licence.split(" or "))]


def _write_beside(
    corpus: Corpus, tracks: Sequence[Track], splits: Mapping[str, str], all_tracks: Sequence[Track]
) -> None:
    usable = {item.id for item in corpus.items}
    tracks = [track for track in tracks if track.item_id in usable]
    for make in (lambda: soundtrack_task(tracks, splits), lambda: artist_task(tracks, splits, all_tracks)):
        try:
            task = make()
        except ValueError:
            # Too few songs are left for even one class.
            continue
        write_task(task, corpus.folder)
    rows = [f"| {name} | {text} |" for name, text in licences(tracks).items()]
    text = "# Licences\n\n| Debian package | tracks and their licence |\n|---|---|\n" + "\n".join(rows) + "\n"
    note = "\nThe authors and the licences in full are in /usr/share/doc/PACKAGE/copyright of each package.\n"
    write_atomically(corpus.folder / "LICENCES.md", text + note)


def _default_out(options: Options) -> Path:
    # `--corpus debian_games` refers to the small set.
    return default_destination(PIPELINE if options.set == "small" else f"{PIPELINE}-{options.set}", options)


def main(arguments: Sequence[str]) -> None:
    """The command, without the program's name in `arguments`."""
    options = parse_command(Options, arguments, program="python -m pipelines.debian_games", description=__doc__)
    corpus = prepare_corpus((options.out or _default_out(options)).expanduser(), options)
    stdout.print(summarise(corpus), markup=False)


if __name__ == "__main__":
    sys.exit(run_command(main))
