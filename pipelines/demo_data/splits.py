"""Which track goes to which split: by song, stratified by class, decided by a hash."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from pipelines.demo_data.tables import SelectedTrack

HELD_OUT_SHARE = 0.2
MIN_TEST_TRACKS = 2
MIN_VALID_TRACKS = 1


def assign_splits(tracks: Sequence[SelectedTrack]) -> dict[str, str]:
    """Assigns every song to "train", "valid" or "test".

    In each class, songs of one track come first, ordered by a hash of where the track lies in its package;
    they fill test, then valid, with about `HELD_OUT_SHARE` of the tracks each. Songs of several tracks come
    last and so land in train, where one theme heard twice cannot weigh on a score.

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
        num_held_out = round(HELD_OUT_SHARE * num_tracks)
        room = {"test": max(MIN_TEST_TRACKS, num_held_out), "valid": max(MIN_VALID_TRACKS, num_held_out)}
        for song_id, song in sorted(songs_of_class.items(), key=lambda pair: _order_of(pair[1])):
            split = next((name for name, num_left in room.items() if num_left > 0), "train")
            splits[song_id] = split
            if split in room:
                room[split] -= len(song)
    return splits


def _order_of(song: list[SelectedTrack]) -> tuple[int, str]:
    first_path = min(f"{track.package}/{track.source_path}" for track in song)
    return len(song), hashlib.sha256(first_path.encode()).hexdigest()
