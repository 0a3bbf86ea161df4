"""The library page: a map of all songs, a player, similar songs, and teaching of tags, on this machine only."""
