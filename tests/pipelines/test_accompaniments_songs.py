import collections
import math
import re

import pytest

from clmr_tf.errors import UsageError
from pipelines.accompaniments import STYLES, TAGS, tasks_of
from pipelines.accompaniments.instruments import (
    INSTRUMENTS,
    MIN_NUM_NOTES,
    PERCUSSION,
    PROGRAMS,
    instruments_of,
)
from pipelines.accompaniments.songs import (
    HELD_OUT_SOUNDFONT,
    KEYS,
    TEMPO_CLASSES,
    TRAINING_SOUNDFONTS,
    draw_songs,
    read_grooves,
)
from pipelines.accompaniments.tools import SOUNDFONTS
from tests.pipelines.chords import pitch_class, tones

GROOVES = read_grooves()
SCALES = {"major": {0, 2, 4, 5, 7, 9, 11}, "minor": {0, 2, 3, 5, 7, 8, 10}}


@pytest.fixture(scope="module")
def songs():
    return draw_songs(1000, 0, GROOVES)


def test_every_groove_is_in_every_split_and_the_held_out_soundfont_only_in_the_test(songs):
    assert len(GROOVES) == len({groove.name for groove in GROOVES}) == 100
    counts = collections.Counter((song.groove.name, song.split) for song in songs)
    assert {counts[groove.name, "train"] for groove in GROOVES} == {7}
    assert {counts[groove.name, "valid"] for groove in GROOVES} == {1}
    assert {counts[groove.name, "test"] for groove in GROOVES} == {2}
    assert {song.split for song in songs if song.soundfont == HELD_OUT_SOUNDFONT} == {"test"}
    assert {song.soundfont for song in songs if song.split == "test"} == {HELD_OUT_SOUNDFONT}
    for split in ("train", "valid"):
        assert {song.soundfont for song in songs if song.split == split} == set(TRAINING_SOUNDFONTS)
    assert {HELD_OUT_SOUNDFONT, *TRAINING_SOUNDFONTS} == set(SOUNDFONTS)
    # A small corpus has all splits, too.
    assert collections.Counter(song.split for song in songs[:10]) == {"train": 7, "valid": 1, "test": 2}


def test_a_song_depends_on_the_seed_and_its_number_alone(songs):
    assert draw_songs(137, 0, GROOVES) == songs[:137]
    others = draw_songs(1000, 1, GROOVES)
    assert all(song.score() != other.score() for song, other in zip(songs, others, strict=True))
    assert len({song.score() for song in songs}) == 1000
    # A later version of NumPy must draw the same.
    first = songs[0]
    received = (first.groove.name, first.bpm, first.key, first.soundfont, first.mma_seed)
    assert received == ("ShuffleBoggie", 80, "G major", "sf_GMbank", 47463575)


def test_labels_are_spread_evenly(songs):
    assert {song.bpm for song in songs} <= set(range(60, 180))
    tempi = collections.Counter(song.tempo_class for song in songs)
    assert set(tempi) == set(TEMPO_CLASSES)
    # A sixth each, within three standard deviations of a fair draw.
    assert all(abs(count - 1000 / 6) < 3 * math.sqrt(1000 * 5 / 36) for count in tempi.values()), tempi
    modes = collections.Counter(song.mode for song in songs)
    assert abs(modes["major"] - 500) < 3 * math.sqrt(250)
    keys = collections.Counter(song.key for song in songs)
    assert set(keys) == set(KEYS) and min(keys.values()) >= 20


def test_tempo_classes_hold_their_tempi(songs):
    for song in songs:
        low, high = map(int, song.tempo_class.removesuffix(" bpm").split("-"))
        assert low <= song.bpm <= high
    assert [TEMPO_CLASSES[0].split("-")[0], TEMPO_CLASSES[-1]] == ["60", "150-179 bpm"]


def test_chords_are_those_of_the_key(songs):
    for song in songs:
        tonic = pitch_class(song.key.split()[0])
        assert tonic == song.tonic
        scale = SCALES[song.mode] | {11}
        assert {(tone - tonic) % 12 for chord in song.chords for tone in tones(chord)} <= scale
        # Each phrase of four bars begins with the tonic chord, whose third is that of the mode.
        for chord in song.chords[::4]:
            third = 4 if song.mode == "major" else 3
            assert {0, third, 7} <= {(tone - tonic) % 12 for tone in tones(chord)}
        assert len(song.chords) == 16


def test_a_score_is_as_long_as_the_song(songs):
    for song in songs[:200]:
        lines = song.score().splitlines()
        num_bars = sum(bool(re.match(r"\d+ ", line)) for line in lines)
        seconds = num_bars * song.groove.beats_per_bar * 60 / song.bpm
        bar_seconds = song.groove.beats_per_bar * 60 / song.bpm
        assert 30 + 1e-9 < seconds <= 30 + 2 * bar_seconds
        assert f"Tempo {song.bpm}" in lines
        assert f"Groove stdlib/{song.groove.file}:{song.groove.name}" in lines


def test_tasks_have_the_splits_of_the_corpus_and_every_class(songs):
    mode, key, tempo = tasks_of(songs)
    assert [task.name for task in (mode, key, tempo)] == ["mode", "key", "tempo"]
    for task, num_classes in ((mode, 2), (key, 24), (tempo, 6)):
        assert len(task.tag_names) == num_classes and task.single_label
        assert {item_id: label.split for item_id, label in task.items.items()} == {s.item_id: s.split for s in songs}
        for split in ("train", "valid", "test"):
            there = {label.tags[0] for label in task.items.values() if label.split == split}
            assert there == set(task.tag_names), (task.name, split)
    assert {mode.items[song.item_id].tags[0] for song in songs if "minor" in song.key} == {"minor"}


def test_tags_are_named_once():
    assert len(TAGS) == len(set(TAGS)) == len(INSTRUMENTS) + len(STYLES)
    programs = [program for group in PROGRAMS.values() for program in group]
    assert len(programs) == len(set(programs)) and set(programs) <= set(range(128))
    keys = [key for group in PERCUSSION.values() for key in group]
    assert len(keys) == len(set(keys))


def test_instruments_are_counted_by_their_notes():
    notes = [(0, 60)] * MIN_NUM_NOTES + [(2, 60), (33, 30), (35, 30)] + [(32, 30)] * (MIN_NUM_NOTES - 1)
    assert instruments_of(notes) == ("piano",)
    assert instruments_of([*notes, (36, 30), (37, 30)]) == ("piano", "electric bass")
    # Key 63 is a conga on the drum channel, and a note elsewhere; 120 is a noise that has no tag.
    assert instruments_of([(None, 63)] * 4 + [(None, 36)] * 3 + [(120, 63)] * 9) == ("latin percussion",)
    assert instruments_of([]) == ()


def test_impossible_numbers_are_refused():
    for num_songs, seed in ((0, 0), (1, -1)):
        with pytest.raises(UsageError, match=f"received {num_songs} and {seed}"):
            draw_songs(num_songs, seed, GROOVES)
