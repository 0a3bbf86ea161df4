"""Renders a score: MMA writes MIDI, and a synthesizer plays it with a soundfont; the notes give the instruments."""

import dataclasses
import functools
import importlib
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from clmr_tf.errors import ClmrError
from clmr_tf.files import write_atomically
from pipelines.accompaniments.instruments import instruments_of
from pipelines.accompaniments.songs import SONG_SECONDS
from pipelines.accompaniments.tools import Tools
from pipelines.preparation.transcoding import to_pcm16

SAMPLE_RATE_HZ = 44_100
# One decibel below full scale.
PEAK = 10 ** (-1 / 20)
DRUM_CHANNEL = 9
# Increment this with every change that makes songs sound different; songs rendered before are then not used.
RENDERING_VERSION = 1
# MMA usually takes a fifth of a second.
_MMA_LIMIT_SECONDS = 60.0
# After a reset, voices fade for some milliseconds.
_FADE_NUM_SAMPLES = SAMPLE_RATE_HZ // 2


class RenderingError(ClmrError):
    """A song cannot be rendered; the message is one sentence without a full stop."""


@dataclasses.dataclass(frozen=True)
class RenderingTask:
    """A song to render.

    Attributes:
        score: Text for MMA.
        soundfont: The soundfont file.
        tools: Where the programs are.
        path: The audio file; files of the same name with the suffixes .mid and .mma get the MIDI and the score.
    """

    score: str
    soundfont: Path
    tools: Tools
    path: Path


def render_song(task: RenderingTask) -> tuple[str, ...]:
    """Renders a song unless its files exist: `SONG_SECONDS` of mono FLAC at 44.1 kHz, with the peak at `PEAK`.

    Returns:
        The tags of its instruments.

    Raises:
        RenderingError: If MMA or the synthesizer fails, or the song is silent.
        OSError: If its files cannot be written.
    """
    score_path, midi_path = task.path.with_suffix(".mma"), task.path.with_suffix(".mid")
    is_there = score_path.is_file() and score_path.read_text(encoding="utf-8") == task.score
    if is_there and task.path.is_file() and midi_path.is_file():
        return instruments_of(notes_of(midi_events(midi_path.read_bytes(), task.tools)))
    midi = compose(task.score, task.tools)
    events = midi_events(midi, task.tools)
    audio = synthesize(events, task.soundfont, task.tools)
    loudest = np.abs(audio).max()
    if not loudest > 0:
        raise RenderingError("it is silent")
    flac = io.BytesIO()
    soundfile.write(flac, to_pcm16(audio * (PEAK / loudest)), SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    write_atomically(task.path, flac.getvalue())
    write_atomically(midi_path, midi)
    # Written last, when everything that it describes is complete.
    write_atomically(score_path, task.score)
    return instruments_of(notes_of(events))


def compose(score: str, tools: Tools) -> bytes:
    """The MIDI file that MMA makes from a score; the same score gives the same file.

    Raises:
        RenderingError: If MMA fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "song.mma", Path(folder) / "song.mid"
        source.write_text(score, encoding="utf-8")
        # Without warnings, the user's settings, and a comment with the time.
        options = ["-w", "-i", os.devnull, "-xNOCREDIT", "-f", str(result)]
        try:
            finished = subprocess.run(
                [sys.executable, "-P", "-s", "-W", "ignore", str(tools.mma), *options, str(source)],
                cwd=folder,
                # Without the user's environment, in which variables may name other MMA libraries.
                env={"MMA_HOME": str(tools.mma_home), "PYTHONHASHSEED": "0", "HOME": folder, "LC_ALL": "C.UTF-8"},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_MMA_LIMIT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RenderingError(f"mma took more than {_MMA_LIMIT_SECONDS:g} s") from error
        if finished.returncode or not result.is_file():
            raise RenderingError(f"mma failed: {_reason(finished.stdout + finished.stderr)}")
        return result.read_bytes()


def _reason(output: str) -> str:
    _, found, message = output.partition("Error: ")
    return " ".join((message if found else output).split())[:200] or "no message"


def midi_events(midi: bytes, tools: Tools) -> list[Any]:
    """The events of a MIDI file before `SONG_SECONDS`, in the order of time.

    Returns:
        `tinysoundfont.midi.Event`, with the time in seconds.
    """
    reader = _imported("tinysoundfont.midi", tools.synthesizer)
    return [event for event in reader.load_memory(midi) if event.t < SONG_SECONDS]


def notes_of(events: list[Any]) -> list[tuple[int | None, int]]:
    """Program and key of each note; the program is None on the drum channel."""
    programs = dict.fromkeys(range(16), 0)
    notes = []
    for event in events:
        match type(event.action).__name__:
            case "ProgramChange":
                programs[event.channel] = event.action.program
            case "NoteOn" if event.action.velocity > 0:
                program = None if event.channel == DRUM_CHANNEL else programs[event.channel]
                notes.append((program, event.action.key))
    return notes


def synthesize(events: list[Any], soundfont: Path, tools: Tools) -> np.ndarray:
    """Plays events with a soundfont; earlier calls do not change the result.

    Args:
        events: From `midi_events`.
        soundfont: The file.
        tools: Where the programs are.

    Returns:
        float32 [SONG_SECONDS * SAMPLE_RATE_HZ], both channels averaged; may exceed 1.

    Raises:
        RenderingError: If the soundfont cannot be loaded or does not have an instrument.
    """
    num_samples = int(SONG_SECONDS * SAMPLE_RATE_HZ)
    try:
        synthesizer = _loaded(soundfont, tools.synthesizer)
        _reset(synthesizer)
        blocks, position = [np.zeros((0, 2), np.float32)], 0
        for event in events:
            start = min(round(event.t * SAMPLE_RATE_HZ), num_samples)
            if start > position:
                blocks.append(_generated(synthesizer, start - position))
                position = start
            _play(synthesizer, event.channel, event.action)
        blocks.append(_generated(synthesizer, num_samples - position))
    except RuntimeError as error:
        raise RenderingError(f"{soundfont.name} cannot play it ({error})") from error
    return np.concatenate(blocks).mean(axis=1)


def _play(synthesizer: Any, channel: int, action: Any) -> None:
    match type(action).__name__:
        case "NoteOn":
            # If MMA starts a note twice, it ends it only once; without this, such notes would use up all voices after a
            # while.
            synthesizer.noteoff(channel, action.key)
            synthesizer.noteon(channel, action.key, action.velocity)
        case "NoteOff":
            synthesizer.noteoff(channel, action.key)
        case "ControlChange":
            synthesizer.control_change(channel, action.control, action.control_value)
        case "ProgramChange":
            synthesizer.program_change(channel, action.program, channel == DRUM_CHANNEL)
        case "PitchBend":
            synthesizer.pitchbend(channel, action.pitch_bend)


def _generated(synthesizer: Any, num_samples: int) -> np.ndarray:
    """[num_samples, 2]."""
    return np.frombuffer(synthesizer.generate_simple(num_samples), np.float32).reshape(-1, 2)


def _reset(synthesizer: Any) -> None:
    for soundfont in synthesizer.soundfonts.values():
        soundfont.reset()
    _generated(synthesizer, _FADE_NUM_SAMPLES)
    synthesizer.program_change(DRUM_CHANNEL, 0, True)


@functools.cache
def _loaded(soundfont: Path, folder: Path) -> Any:
    """A synthesizer with a soundfont; it is cached, since compressed soundfonts take seconds to load."""
    module = _imported("tinysoundfont", folder)
    synthesizer = module.Synth(samplerate=SAMPLE_RATE_HZ)
    synthesizer.sfload(str(soundfont))
    return synthesizer


def _imported(name: str, folder: Path) -> Any:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return importlib.import_module(name)
