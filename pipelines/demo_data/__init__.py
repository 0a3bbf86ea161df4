"""The demo corpus: 107 excerpts of 30 s of freely licensed music in 11 classes, and what made them.

The classes are artists, or soundtracks where several people wrote one. Most come from one game each, whose
mastering gives the class away in part: a score on this corpus shows that a run works, not how good an encoder
is. Excerpts keep the level of their tracks; those of class "flare" are 10 to 15 dB below the others. Only
class "obsidian-shell" has much singing.

    selection.csv    what was chosen, and where each licence is stated
    tracks.csv       what was made of it: file, class, split, song, position, digests
    ATTRIBUTION.md   authors, licences and changes, for people
    audio/           the excerpts: Ogg Vorbis, mono, 22,050 Hz
    build.py         makes the last three from the first
"""
