"""Chords as textbooks define them: names to pitch classes, 0 for C."""

import re

# Semitones above the root.
CHORD_STEPS = {
    "": (0, 4, 7),
    "m": (0, 3, 7),
    "dim": (0, 3, 6),
    "M7": (0, 4, 7, 11),
    "m7": (0, 3, 7, 10),
    "7": (0, 4, 7, 10),
    "m7b5": (0, 3, 6, 10),
}
_LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


def pitch_class(name: str) -> int:
    """Of "C#" or "Db": 1."""
    return (_LETTERS[name[0]] + name.count("#") - name[1:].count("b")) % 12


def tones(chord: str) -> list[int]:
    """Of "Am7": 9, 0, 4, 7."""
    root, kind = re.fullmatch(r"([A-G][b#]?)(.*)", chord).groups()
    return [(pitch_class(root) + step) % 12 for step in CHORD_STEPS[kind]]
