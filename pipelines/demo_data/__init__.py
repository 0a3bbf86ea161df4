"""The demo corpus: 107 excerpts of 30 s of freely licensed music in 11 classes.

The classes are artists, or soundtracks if several people wrote them. Most are from one game each, so its mastering
partly reveals the class: a score on this corpus shows that a run works, not how good an encoder is. Excerpts keep the
level of their tracks; those of class "flare" are 10 to 15 dB below the others. Only class "obsidian-shell" has much
singing.

    tracks.csv       the excerpts: file, class, split, song, position, digests, and where each licence is stated
    ATTRIBUTION.md   authors, licences and changes, in readable form
    audio/           the excerpts: Ogg Vorbis, mono, 22,050 Hz
"""
