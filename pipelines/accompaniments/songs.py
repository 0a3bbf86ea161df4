"""Songs drawn from a seed: groove, tempo, key, chords, instruments, soundfont and split, and the score for MMA."""

import dataclasses
from pathlib import Path

import numpy as np

from clmr_tf.errors import UsageError
from pipelines.preparation.sources import read_records

GROOVES_TABLE = Path(__file__).parent / "grooves.csv"
SONG_SECONDS = 30.0
MIN_BPM, MAX_BPM = 60, 180
# The first tempo of each class but the first; the ratio of neighbours is about the sixth root of 3.
TEMPO_EDGES_BPM = (72, 87, 104, 125, 150)
MODES = ("major", "minor")
# Spelled as in the usual key signatures.
TONICS = {
    "major": ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"),
    "minor": ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B"),
}
# Names of soundfonts, see `tools.SOUNDFONTS`.
TRAINING_SOUNDFONTS = ("TimGM6mb", "sf_GMbank")
HELD_OUT_SOUNDFONT = "FluidR3Mono_GM"
# Ten songs of a groove, in the order of their numbers: 7 train, 1 valid, 2 test.
_SPLITS = ("train", "test", "train", "valid", "train", "train", "test", "train", "train", "train")

_ROOTS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")


@dataclasses.dataclass(frozen=True)
class _Degree:
    """A chord of a key: semitones above the tonic, triad and seventh chord in MMA's notation, and what may follow."""

    semitones: int
    triad: str
    seventh: str
    following: tuple[str, ...]


# The diatonic chords; in minor, those of the natural scale with the dominant of the harmonic scale.
_DEGREES = {
    "major": {
        "I": _Degree(0, "", "M7", ("ii", "iii", "IV", "V", "vi")),
        "ii": _Degree(2, "m", "m7", ("V", "IV")),
        "iii": _Degree(4, "m", "m7", ("vi", "IV")),
        "IV": _Degree(5, "", "M7", ("I", "ii", "V")),
        "V": _Degree(7, "", "7", ("I", "vi")),
        "vi": _Degree(9, "m", "m7", ("ii", "IV", "V")),
    },
    "minor": {
        "I": _Degree(0, "m", "m7", ("iv", "V", "VI", "III", "VII")),
        "ii": _Degree(2, "dim", "m7b5", ("V",)),
        "III": _Degree(3, "", "M7", ("VI", "iv")),
        "iv": _Degree(5, "m", "m7", ("I", "ii", "V", "VII")),
        "V": _Degree(7, "", "7", ("I", "VI")),
        "VI": _Degree(8, "", "M7", ("ii", "iv", "III")),
        "VII": _Degree(10, "", "7", ("III", "VI")),
    },
}
_NUM_PHRASES, _PHRASE_NUM_BARS = 4, 4
_TONIC_ENDING_PROBABILITY = 0.4
_SEVENTHS_PROBABILITY = 0.5

# MMA's names of General MIDI programs. An instrument that is drawn replaces those of all tracks of these types.
_REPLACEMENTS = {
    ("Bass", "Walk"): ("AcousticBass", "FingeredBass", "FretlessBass", "SynthBass1"),
    ("Chord", "Plectrum"): (
        *("Piano1", "RhodesPiano", "HarpsiChord", "Vibraphone", "Organ1", "Accordion", "NylonGuitar", "JazzGuitar"),
        *("OverDriveGuitar", "Strings", "ChoirAahs", "BrassSection", "TenorSax", "Flute", "SawWave"),
    ),
    ("Arpeggio", "Scale", "Aria"): (
        *("Piano1", "Vibraphone", "SteelGuitar", "OrchestralHarp", "Violin", "Trumpet", "AltoSax", "Clarinet"),
        *("Flute", "SquareWave", "Banjo", "HarpsiChord"),
    ),
}
_REPLACEMENT_PROBABILITY = 0.5
_NO_DRUMS_PROBABILITY = 0.15


@dataclasses.dataclass(frozen=True)
class Groove:
    """A groove of MMA, a row of the table.

    Attributes:
        file: Its file in MMA's library "stdlib".
        name: Its name there.
        beats_per_bar: Beats, which the tempo counts, in a bar.
        styles: Style tags.
    """

    file: str
    name: str
    beats_per_bar: int
    styles: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Song:
    """A song that was drawn.

    Attributes:
        number: Its number, from 0.
        split: "train", "valid" or "test".
        soundfont: Name of the soundfont.
        groove: The groove of all bars.
        bpm: Beats per minute.
        tonic: Pitch class of the tonic, 0 for C.
        mode: "major" or "minor".
        chords: One chord per bar, in MMA's notation; the song repeats them.
        changes: MMA directives that change instruments of the groove.
        mma_seed: Seed of MMA's own random numbers.
    """

    number: int
    split: str
    soundfont: str
    groove: Groove
    bpm: int
    tonic: int
    mode: str
    chords: tuple[str, ...]
    changes: tuple[str, ...]
    mma_seed: int

    @property
    def item_id(self) -> str:
        """Name of its item in the corpus."""
        return f"{self.number:06d}"

    @property
    def key(self) -> str:
        """Name of its key: "C# minor"."""
        return f"{TONICS[self.mode][self.tonic]} {self.mode}"

    @property
    def tempo_class(self) -> str:
        """Name of its class of tempo: "72-86 bpm"."""
        return TEMPO_CLASSES[int(np.searchsorted(TEMPO_EDGES_BPM, self.bpm, side="right"))]

    def score(self) -> str:
        """The song for MMA, a bar longer than `SONG_SECONDS`."""
        num_bars = int(SONG_SECONDS * self.bpm / 60 / self.groove.beats_per_bar) + 2
        bars = [f"{bar + 1} {self.chords[bar % len(self.chords)]}" for bar in range(num_bars)]
        # With the name of its file, MMA finds the groove in a library that has no database.
        groove = f"Groove stdlib/{self.groove.file}:{self.groove.name}"
        head = [f"RndSeed {self.mma_seed}", f"Tempo {self.bpm}", groove, *self.changes]
        return "\n".join([*head, *bars]) + "\n"


TEMPO_CLASSES = tuple(
    f"{first}-{following - 1} bpm"
    for first, following in zip((MIN_BPM, *TEMPO_EDGES_BPM), (*TEMPO_EDGES_BPM, MAX_BPM), strict=True)
)
KEYS = tuple(f"{tonic} {mode}" for mode in MODES for tonic in TONICS[mode])


def read_grooves(table: Path = GROOVES_TABLE) -> list[Groove]:
    """The rows of the table of grooves.

    Raises:
        UsageError: If it cannot be read or has other columns.
    """
    rows = read_records(table, ",", ("file", "groove", "beats_per_bar", "styles"))
    return [
        Groove(row["file"], row["groove"], int(row["beats_per_bar"]), tuple(row["styles"].split("; "))) for row in rows
    ]


def draw_songs(num_songs: int, seed: int, grooves: list[Groove]) -> list[Song]:
    """Draws songs; a song depends on the seed, its number and the grooves, and not on other songs.

    Grooves take turns. Ten songs of a groove are 7 of "train", 1 of "valid" and 2 of "test", and so are ten songs in a
    row. The held-out soundfont plays all songs of "test" and no other.

    Args:
        num_songs: Number of songs.
        seed: At least 0.
        grooves: All grooves.

    Raises:
        UsageError: If a number is too small.
    """
    if num_songs < 1 or seed < 0:
        raise UsageError(f"--num-songs must be at least 1 and --seed at least 0; received {num_songs} and {seed}.")
    order = np.random.default_rng([seed]).permutation(len(grooves))
    songs = []
    for number in range(num_songs):
        round_number, position = divmod(number, len(grooves))
        split = _SPLITS[(position + round_number) % len(_SPLITS)]
        songs.append(_draw_song(number, split, grooves[order[position]], np.random.default_rng([seed, number])))
    return songs


def _draw_song(number: int, split: str, groove: Groove, rng: np.random.Generator) -> Song:
    soundfont = TRAINING_SOUNDFONTS[rng.integers(len(TRAINING_SOUNDFONTS))]
    # Uniform in the logarithm, like the perception of tempo.
    bpm = int(MIN_BPM * (MAX_BPM / MIN_BPM) ** rng.random())
    tonic, mode = int(rng.integers(12)), MODES[rng.integers(2)]
    return Song(
        number=number,
        split=split,
        soundfont=HELD_OUT_SOUNDFONT if split == "test" else soundfont,
        groove=groove,
        bpm=bpm,
        tonic=tonic,
        mode=mode,
        chords=_draw_chords(tonic, mode, rng),
        changes=_draw_changes(rng),
        mma_seed=int(rng.integers(2**31)),
    )


def _draw_chords(tonic: int, mode: str, rng: np.random.Generator) -> tuple[str, ...]:
    """Phrases of four bars: the tonic, two chords that follow, and the dominant or the tonic."""
    degrees = _DEGREES[mode]
    kind = "seventh" if rng.random() < _SEVENTHS_PROBABILITY else "triad"
    chords = []
    for _ in range(_NUM_PHRASES):
        names = ["I"]
        while len(names) < _PHRASE_NUM_BARS - 1:
            following = degrees[names[-1]].following
            names.append(following[rng.integers(len(following))])
        names.append("I" if rng.random() < _TONIC_ENDING_PROBABILITY else "V")
        chords += [f"{_ROOTS[(tonic + degrees[n].semitones) % 12]}{getattr(degrees[n], kind)}" for n in names]
    return tuple(chords)


def _draw_changes(rng: np.random.Generator) -> tuple[str, ...]:
    """Draws other instruments or no drums for some songs; otherwise the groove would determine the instruments."""
    lines = []
    for track_types, voices in _REPLACEMENTS.items():
        is_replaced, voice = rng.random() < _REPLACEMENT_PROBABILITY, voices[rng.integers(len(voices))]
        if is_replaced:
            lines.append(f"AllTracks {' '.join(track_types)} Voice {voice}")
    if rng.random() < _NO_DRUMS_PROBABILITY:
        lines.append("AllTracks Drum Off")
    return tuple(lines)
