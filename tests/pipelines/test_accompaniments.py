"""Real songs: Debian's MMA and soundfonts, and the synthesizer, downloaded if they are not in data/accompaniments."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile

from clmr_tf.data.corpus import Corpus, task_names_in
from clmr_tf.errors import ClmrError, UsageError
from pipelines import accompaniments
from pipelines.accompaniments import DATA, Options, main, prepare_corpus, rendering, songs, tools
from pipelines.accompaniments.instruments import DRUM_KIT_KEYS, LATIN_PERCUSSION_KEYS, PROGRAMS
from pipelines.accompaniments.rendering import RenderingError, RenderingTask, compose, midi_events, render_song
from pipelines.accompaniments.songs import draw_songs, read_grooves
from pipelines.accompaniments.tools import find_tools
from pipelines.preparation.prepare import PrepareSettings
from tests.pipelines.conftest import run_in_this_process
from tests.pipelines.midi_file import read_midi

# The large soundfont takes seconds to load, so a small one takes its place; the songs are the same otherwise.
SOUNDFONTS = ("TimGM6mb", "sf_GMbank")
OPTIONS = Options(num_songs=10, num_workers=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    there = Path(os.environ.get("ACCOMPANIMENTS_DATA", Path(__file__).parents[2] / DATA))
    for path in [*there.glob("*.deb"), *there.glob("*.whl")]:
        shutil.copy(path, folder)
    try:
        tools.fetch_tools(folder, SOUNDFONTS)
    except ClmrError as error:
        pytest.skip(f"MMA, the soundfonts or the synthesizer cannot be downloaded: {error}")
    return folder


@pytest.fixture(scope="module")
def parts(data):
    return find_tools(data, SOUNDFONTS)


@pytest.fixture(scope="module")
def drawn():
    return draw_songs(1000, 0, read_grooves())


@pytest.fixture
def small_soundfonts(monkeypatch):
    monkeypatch.setattr(songs, "TRAINING_SOUNDFONTS", SOUNDFONTS[:1])
    monkeypatch.setattr(songs, "HELD_OUT_SOUNDFONT", SOUNDFONTS[1])
    monkeypatch.setattr(accompaniments, "find_tools", lambda data: find_tools(data, SOUNDFONTS))
    for module in (accompaniments, "pipelines.preparation.prepare"):
        target = f"{module}.run_in_workers" if isinstance(module, str) else f"{module.__name__}.run_in_workers"
        monkeypatch.setattr(target, run_in_this_process)


@pytest.fixture(scope="module")
def midi_files(parts, drawn):
    """Twelve songs of as many grooves, and what MMA makes of them."""
    chosen = drawn[:200:17]
    return [(song, compose(song.score(), parts)) for song in chosen]


def test_labels_agree_with_the_midi(midi_files, parts):
    for song, content in midi_files:
        midi = read_midi(content)
        # MIDI has whole microseconds.
        assert midi.tempi == [pytest.approx(60e6 / song.bpm, abs=1)]
        heard = [note for note in midi.notes if note.seconds < 30]
        received = rendering.instruments_of(rendering.notes_of(midi_events(content, parts)))
        num_notes = {
            **{tag: sum(n.channel != 9 and n.program in programs for n in heard) for tag, programs in PROGRAMS.items()},
            "drums": sum(n.channel == 9 and n.key in DRUM_KIT_KEYS for n in heard),
            "latin percussion": sum(n.channel == 9 and n.key in LATIN_PERCUSSION_KEYS for n in heard),
        }
        assert set(received) == {tag for tag, number in num_notes.items() if number >= 4}
        assert received
        # There is music to the end.
        assert max(note.seconds for note in heard) > 27
        if "AllTracks Drum Off" in song.changes:
            assert all(note.channel != 9 for note in heard)


def test_every_bar_of_the_midi_has_the_chord_of_the_score(midi_files):
    steps = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
    kinds = {
        "": (0, 4, 7), "m": (0, 3, 7), "dim": (0, 3, 6), "M7": (0, 4, 7, 11),
        "m7": (0, 3, 7, 10), "7": (0, 4, 7, 10), "m7b5": (0, 3, 6, 10),
    }  # fmt: skip
    inside = total = 0
    for song, content in midi_files:
        for note in read_midi(content).notes:
            if note.channel == 9:
                continue
            # A note may begin a little before its beat.
            bar = int((note.beats + 0.1) // song.groove.beats_per_bar)
            root, kind = re.fullmatch(r"([A-G][b#]?)(.*)", song.chords[bar % 16]).groups()
            pitch = steps[root[0]] + root.count("#") - root[1:].count("b")
            inside += (note.key - pitch) % 12 in kinds[kind]
            total += 1
    # The others are passing notes of basses.
    assert total > 1000 and inside / total > 0.95


def test_the_audio_has_the_tempo_of_the_label(drawn, parts, data):
    """The period of a bar in the onsets of the audio, against the label."""
    for song in (s for s in drawn[:40] if "AllTracks Drum Off" not in s.changes and s.groove.beats_per_bar == 4):
        audio = synthesized(song, parts)
        found = bar_seconds(audio, song.groove.beats_per_bar * 60 / song.bpm)
        print(song.groove.name, song.bpm, found * song.bpm / 240)


def synthesized(song, parts):
    events = midi_events(compose(song.score(), parts), parts)
    return rendering.synthesize(events, parts.soundfonts[SOUNDFONTS[0]], parts)


def bar_seconds(audio, expected):
    """The lag near `expected`, within 6 %, at which the onsets repeat best."""
    hop = 441
    _, _, spectrum = scipy.signal.stft(audio, 44100, nperseg=2048, noverlap=2048 - hop)
    flux = np.maximum(np.diff(np.log1p(100 * np.abs(spectrum)), axis=1), 0).sum(axis=0)
    flux -= flux.mean()
    correlation = scipy.signal.correlate(flux, flux)[len(flux) - 1 :] / np.arange(len(flux), 0, -1)
    lags = np.arange(len(correlation)) * hop / 44100
    near = np.flatnonzero(np.abs(lags / expected - 1) < 0.06)
    best = near[np.argmax(correlation[near])]
    before, at, after = correlation[best - 1 : best + 2]
    return (best + 0.5 * (before - after) / (before - 2 * at + after)) * hop / 44100
