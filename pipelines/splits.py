"""Dividing songs into train, valid and test."""

import hashlib
from collections.abc import Iterable
from os import fsencode


def split_songs(song_ids: Iterable[str], valid_share: float, test_share: float) -> dict[str, str]:
    """Puts every song into "train", "valid" or "test", the same way wherever and whenever it is done.

    The songs are ranked by a hash of their ids; the first go to "valid", the next to "test". So the shares
    are exact to the nearest song, and a split does not depend on the order of the songs. A share above zero
    gets at least one song once there are two songs for "valid", three for "test"; "train" always keeps one.

    Args:
        song_ids: Songs; repetitions do not count.
        valid_share: Share of "valid", from 0 to 1.
        test_share: Share of "test", from 0 to 1; together at most 1.

    Returns:
        The split of every song.
    """
    ranked = sorted(set(song_ids), key=lambda song: hashlib.sha256(fsencode(song)).digest())
    num_valid = _num_songs(valid_share, len(ranked), 2)
    num_test = _num_songs(test_share, len(ranked), 3)
    num_test = min(num_test, max(0, len(ranked) - 1 - num_valid))
    splits = ["valid"] * num_valid + ["test"] * num_test + ["train"] * (len(ranked) - num_valid - num_test)
    return dict(zip(ranked, splits, strict=True))


def _num_songs(share: float, num_songs: int, num_needed: int) -> int:
    if share == 0 or num_songs < num_needed:
        return 0
    return min(max(1, round(share * num_songs)), num_songs - num_needed + 1)
