"""Tags of instruments from the notes of a song."""

from collections.abc import Iterable

# General MIDI programs, counted from 0, by tag. Programs that no song uses are missing.
PROGRAMS = {
    "piano": range(4),
    "electric piano": (4, 5),
    "harpsichord": (6, 7),
    "vibraphone": (9, 11, 12, 13),
    "organ": range(16, 20),
    "accordion": range(20, 24),
    "acoustic guitar": (24, 25),
    "electric guitar": (26, 27, 28),
    "distorted guitar": (29, 30, 31),
    "double bass": (32,),
    "electric bass": range(33, 38),
    "synth bass": (38, 39),
    "strings": (*range(40, 46), *range(48, 52)),
    "harp": (46,),
    "choir": (52, 53, 54),
    "brass": range(56, 64),
    "reeds": range(64, 72),
    "flute": range(72, 80),
    "synthesizer": range(80, 104),
    "banjo": range(104, 108),
}
# Keys of the percussion channel, as General MIDI names them: bongos, congas, timbales, agogo, cabasa, maracas, guiro,
# claves, cuica, cowbell and shaker; and what a drum kit has.
LATIN_PERCUSSION_KEYS = (56, *range(60, 71), *range(73, 76), 78, 79, 82)
DRUM_KIT_KEYS = (*range(35, 54), 55, 57, 59)
PERCUSSION = {"drums": DRUM_KIT_KEYS, "latin percussion": LATIN_PERCUSSION_KEYS}
INSTRUMENTS = (*PROGRAMS, *PERCUSSION)
# An instrument needs this many notes to get a tag: fewer are hard to hear.
MIN_NUM_NOTES = 4

_TAG_OF_PROGRAM = {program: tag for tag, programs in PROGRAMS.items() for program in programs}
_TAG_OF_KEY = {key: tag for tag, keys in PERCUSSION.items() for key in keys}


def instruments_of(notes: Iterable[tuple[int | None, int]]) -> tuple[str, ...]:
    """The tags of the instruments that play at least `MIN_NUM_NOTES` notes, in the order of `INSTRUMENTS`.

    Args:
        notes: Program and key of each note; the program is None for percussion.
    """
    num_notes = dict.fromkeys(INSTRUMENTS, 0)
    for program, key in notes:
        tag = _TAG_OF_KEY.get(key) if program is None else _TAG_OF_PROGRAM.get(program)
        if tag is not None:
            num_notes[tag] += 1
    return tuple(tag for tag in INSTRUMENTS if num_notes[tag] >= MIN_NUM_NOTES)
