"""What the table of the Debian games says, and how its songs are divided.

debian_games.csv has a row for every recording of 29 seconds or more that is music (ambient noises are left out): the
smallest set that holds it, the package of Debian 12, path in it, game, artist, song, licence, SHA-256 of the file. The
artist is empty where the package names none. Recordings of one song, such as a mix and its guitar track, two versions,
or a copy in another game, have the same song, named after the game that it counts for.
"""

import collections
import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from clmr_tf.corpus_tasks import CorpusTask, Label
from pipelines.splits import split_songs
from pipelines.tables import read_records

_Key = TypeVar("_Key", bound=Hashable)

TABLE = Path(__file__).parent / "debian_games.csv"
SETS = ("small", "medium")
MIN_SONGS_PER_CLASS = 8
VALID_SHARE, TEST_SHARE = 0.1, 0.2
# Whole games of an artist go to the test if the others leave as many songs as this to train on.
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
    def home(self) -> str:
        """The game that its song counts for, another one where the recording is a copy."""
        return self.song.split("/")[0]


def read_tracks(table: Path = TABLE) -> list[Track]:
    """The rows of the table, in its order.

    Raises:
        UsageError: If it cannot be read or has other columns.
    """
    columns = [field.name for field in dataclasses.fields(Track)]
    return [Track(*(row[column] for column in columns)) for row in read_records(table, ",", columns)]


def tracks_of_set(tracks: Iterable[Track], name: str) -> list[Track]:
    """The tracks of "small" or "medium", which holds the former."""
    wanted = SETS[: SETS.index(name) + 1]
    return [track for track in tracks if track.set in wanted]


def split_of_songs(tracks: Sequence[Track]) -> dict[str, str]:
    """Puts the songs of the whole table into "train", "valid" and "test": 70, 10 and 20 %.

    Drawn by a hash of the song within every game, and within every artist of a game who has enough songs for a class,
    so that each class has songs in each split. So the splits are the same on every machine and in every set,
    whatever is missing. Songs of `games_for_test` are in "test".
    """
    held_out = {song for songs in _songs_for_test(tracks).values() for song in songs}
    artists = _songs_by(tracks, lambda track: (track.home, track.artist))
    strata: dict[tuple[str, str], set[str]] = {}
    for (game, artist), songs in artists.items():
        is_class = artist and len(songs) >= MIN_SONGS_PER_CLASS
        strata.setdefault((game, artist if is_class else ""), set()).update(songs)
    splits = dict.fromkeys(held_out, "test")
    taken: set[str] = set()
    # A song with two artists is drawn among those of the larger stratum.
    for songs in sorted(strata.values(), key=lambda songs: (-len(songs), min(songs))):
        drawn = songs - held_out - taken
        taken |= drawn
        if drawn:
            num_test = max(0, round(TEST_SHARE * len(drawn | (songs & held_out))) - len(songs & held_out))
            splits.update(split_songs(drawn, VALID_SHARE, num_test / len(drawn)))
    return splits


def games_for_test(tracks: Sequence[Track]) -> dict[str, tuple[str, ...]]:
    """For each artist of several games, those from which the task "artist" takes its test.

    The game with most of the songs stays for training; none goes to the test where too few would be left.
    """
    games_of: dict[str, dict[str, set[str]]] = {}
    for (artist, game), songs in _songs_by(tracks, lambda track: (track.artist, track.home)).items():
        games_of.setdefault(artist, {})[game] = songs
    chosen = {}
    for artist, games in games_of.items():
        others = sorted(games, key=lambda game: (-len(games[game]), game))[1:]
        num_songs = sum(map(len, games.values()))
        num_left = num_songs - sum(len(games[game]) for game in others)
        if artist and others and num_songs >= MIN_SONGS_PER_CLASS and num_left >= _MIN_SONGS_LEFT:
            chosen[artist] = tuple(others)
    return chosen


def soundtrack_task(tracks: Sequence[Track], splits: Mapping[str, str]) -> CorpusTask:
    """From which game a track is: those with enough songs; splits are those of the corpus.

    Args:
        tracks: The tracks that are there, of a set.
        splits: Of every song.
    """
    # A copy of another game's song would be two classes at once.
    own = [track for track in tracks if track.home == track.game]
    classes = _classes(own, lambda track: track.game)
    return CorpusTask(
        name="soundtrack",
        description="The game that a track is from. Bit rate, codec and loudness differ from game to game as well.",
        tag_names=classes,
        single_label=True,
        items={track.item_id: Label(splits[track.song], (track.game,)) for track in own if track.game in set(classes)},
    )


def artist_task(tracks: Sequence[Track], splits: Mapping[str, str], all_tracks: Sequence[Track]) -> CorpusTask:
    """Who made a track: artists with enough songs.

    The splits are those of the corpus, except for an artist of `games_for_test`: the test has other games than
    training, so that songs which the corpus has in "test" are for training if they are from a training game.

    Args:
        tracks: The tracks that are there, of a set.
        splits: Of every song.
        all_tracks: The whole table.
    """
    # A copy has the label of its song, but not the sound of its game.
    own = [track for track in tracks if track.home == track.game]
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
        artist: {track.song for track in tracks if track.artist == artist and track.home in games[artist]}
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
