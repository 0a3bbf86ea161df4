import collections
import re

import pytest

from clmr_tf.errors import UsageError
from pipelines.debian_games import (
    TABLE,
    Track,
    artist_task,
    games_for_test,
    read_tracks,
    soundtrack_task,
    split_of_songs,
    tracks_of_set,
)


def track(game, number, artist="", *, song=None, package=None):
    path = f"usr/{number}.ogg"
    return Track("small", package or f"{game}-music", path, game, artist, song or f"{game}/{number}", "GPL-2+", "")


def game(name, num_songs, artist=""):
    return [track(name, number, artist) for number in range(num_songs)]


def test_the_table_has_the_documented_counts():
    tracks = read_tracks()
    small, medium = tracks_of_set(tracks, "small"), tracks_of_set(tracks, "medium")
    assert (len(small), len({track.package for track in small})) == (162, 5)
    assert (len(medium), len({track.package for track in medium})) == (360, 25)
    assert medium == tracks
    assert collections.Counter(track.game for track in small) == {
        "warzone2100": 30,
        "ufoai": 63,
        "wesnoth": 35,
        "nexuiz": 18,
        "singularity": 16,
    }
    assert not [track for track in tracks if "planetblupi" in track.package]
    assert len({track.item_id for track in tracks}) == len(tracks)
    for entry in tracks:
        assert entry.licence and re.fullmatch(r"[a-z0-9-]+", entry.game)
        assert re.search(r"\.(ogg|opus|mp3)$", entry.path) and not entry.path.startswith("/")
        assert ".." not in entry.path.split("/")
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
    assert len({entry.sha256 for entry in tracks}) == len(tracks)


def test_recordings_of_one_song_have_its_id():
    by_path = {track.path.rsplit("/", 2)[-2] + "/" + track.path.rsplit("/", 1)[1]: track for track in read_tracks()}
    assert by_path["chaos_god/song.ogg"].song == by_path["chaos_god/guitar.ogg"].song
    assert by_path["music/through_space.ogg"].song == by_path["music/Through Space.ogg"].song
    assert by_path["aftermath_soundtrack/track3_enhanced.opus"].song == by_path["original_soundtrack/track3.opus"].song
    # Every copy in another game counts for one game, which is in the smaller set of the two.
    copies = [track for track in read_tracks() if track.original_game != track.game]
    assert [(track.game, track.song) for track in copies] == [("starfighter", "singularity/Through Space")]
    sets = {track.song: track.set for track in read_tracks() if track.original_game == track.game}
    assert sets["singularity/Through Space"] == "small"


def test_a_table_without_a_column_is_refused(tmp_path):
    text = TABLE.read_text(encoding="utf-8").replace("song", "title", 1)
    (tmp_path / "table.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="has no column 'song'"):
        read_tracks(tmp_path / "table.csv")


def test_splits_are_fractions_of_every_game_and_artist():
    tracks = game("a", 40) + game("b", 10, "ann") + [track("b", n, "bob") for n in range(10, 25)]
    splits = split_of_songs(tracks)
    counts = collections.Counter((track.game, track.artist, splits[track.song]) for track in tracks)
    assert counts == {
        ("a", "", "train"): 28,
        ("a", "", "valid"): 4,
        ("a", "", "test"): 8,
        ("b", "ann", "train"): 7,
        ("b", "ann", "valid"): 1,
        ("b", "ann", "test"): 2,
        # 15 songs: Python rounds 1.5 to 2.
        ("b", "bob", "train"): 10,
        ("b", "bob", "valid"): 2,
        ("b", "bob", "test"): 3,
    }


def test_splits_do_not_depend_on_the_order_or_on_other_games():
    tracks = read_tracks()
    splits = split_of_songs(tracks)
    assert split_of_songs(tracks[::-1]) == splits
    without = [track for track in tracks if track.original_game != "ufoai"]
    assert split_of_songs(without) == {song: split for song, split in splits.items() if not song.startswith("ufoai/")}
    # On every machine, now and later: a change here makes all results incomparable.
    assert collections.Counter(splits.values()) == {"train": 230, "valid": 41, "test": 68}
    assert [splits[f"singularity/{title}"] for title in ("Nebula", "A New Journey", "Deprecation")] == [
        "valid",
        "test",
        "train",
    ]


@pytest.mark.parametrize("name", ["small", "medium"])
def test_no_song_is_in_two_splits_of_any_task(name):
    table = read_tracks()
    tracks, splits = tracks_of_set(table, name), split_of_songs(table)
    assert set(splits) == {track.song for track in table}
    for task in (soundtrack_task(tracks, splits), artist_task(tracks, splits, table)):
        splits_of = collections.defaultdict(set)
        for entry in tracks:
            if entry.item_id in task.items:
                label = task.items[entry.item_id]
                splits_of[entry.song].add(label.split)
                # What an encoder has learned from is never in the test of a task.
                if label.split == "test":
                    assert splits[entry.song] == "test"
        assert max(map(len, splits_of.values())) == 1
        counts = collections.Counter((label.tags[0], label.split) for label in task.items.values())
        for tag in task.tag_names:
            assert counts[tag, "train"] >= 5 and counts[tag, "valid"] >= 1 and counts[tag, "test"] >= 2


def test_soundtracks_of_eight_songs_are_classes():
    tracks = game("a", 8) + game("b", 7) + game("c", 9)
    # Versions do not make a class, and a copy of another game's song belongs to neither.
    tracks += [track("b", "version", song="b/0"), track("b", "copy", song="a/0")]
    task = soundtrack_task(tracks, split_of_songs(tracks))
    assert (task.tag_names, task.single_label) == (("a", "c"), True)
    assert set(task.items) == {entry.item_id for entry in tracks if entry.game in ("a", "c")}


def test_whole_games_of_an_artist_are_in_the_test_split():
    tracks = game("a", 8, "ann") + game("b", 3, "ann") + game("b2", 20) + game("c", 2, "bob") + game("d", 9, "bob")
    # Cid would have too few left, Dan too few at all.
    for name, artist in (("e", "cid"), ("f", "cid"), ("g", "dan"), ("h", "dan")):
        tracks += game(name, 5 if artist == "cid" else 3, artist)
    assert games_for_test(tracks) == {"ann": ("b",), "bob": ("c",)}
    splits = split_of_songs(tracks)
    task = artist_task(tracks, splits, tracks)
    assert task.tag_names == ("ann", "bob", "cid")
    for artist, test_game in (("ann", "b"), ("bob", "c")):
        labels = {entry.item_id: task.items[entry.item_id].split for entry in tracks if entry.artist == artist}
        in_test = {item for item, split in labels.items() if split == "test"}
        assert in_test == {entry.item_id for entry in tracks if entry.game == test_game}
        assert "valid" in labels.values()
    assert task.description.endswith("(ann, bob).")


def test_one_real_artist_has_another_game_in_the_test_split():
    assert games_for_test(read_tracks()) == {"ZhayTee": ("wesnoth",)}
