"""A reader of MIDI files for tests, written from the format's specification alone."""

import dataclasses
import struct


@dataclasses.dataclass
class Note:
    """A note that begins: seconds and quarter notes from the start, channel from 0, program, key."""

    seconds: float
    beats: float
    channel: int
    program: int
    key: int


@dataclasses.dataclass
class MidiFile:
    """Tempi in microseconds per quarter note, and all notes in the order of time."""

    tempi: list[int]
    notes: list[Note]


def read_midi(content: bytes) -> MidiFile:
    """Reads a file of format 0 or 1 whose tempo does not change after the first."""
    assert content[:4] == b"MThd"
    _, num_tracks, ticks_per_beat = struct.unpack(">HHH", content[8:14])
    position, events = 14, []
    for track in range(num_tracks):
        assert content[position : position + 4] == b"MTrk"
        (size,) = struct.unpack(">I", content[position + 4 : position + 8])
        events += [(ticks, track, *event) for ticks, *event in _events(content[position + 8 : position + 8 + size])]
        position += 8 + size
    # Stable: events of one time stay in the order of the file.
    events.sort(key=lambda event: event[:2])
    tempi = [int.from_bytes(data, "big") for _, _, status, data in events if status == 0x51FF]
    programs, notes = [0] * 16, []
    for ticks, _, status, data in events:
        kind, channel = status & 0xF0, status & 0x0F
        if status == 0x51FF:
            continue
        if kind == 0xC0:
            programs[channel] = data[0]
        elif kind == 0x90 and data[1] > 0:
            beats = ticks / ticks_per_beat
            notes.append(Note(beats * tempi[0] / 1e6, beats, channel, programs[channel], data[0]))
    return MidiFile(tempi, notes)


def _events(track):
    position, ticks, status = 0, 0, 0
    while position < len(track):
        delta, position = _variable_length(track, position)
        ticks += delta
        if track[position] & 0x80:
            status = track[position]
            position += 1
        if status == 0xFF:
            kind = track[position]
            size, position = _variable_length(track, position + 1)
            if kind == 0x51:
                yield ticks, 0x51FF, track[position : position + size]
            position += size
        elif status in (0xF0, 0xF7):
            size, position = _variable_length(track, position)
            position += size
        else:
            size = 1 if status & 0xF0 in (0xC0, 0xD0) else 2
            yield ticks, status, track[position : position + size]
            position += size


def _variable_length(track, position):
    value = 0
    while True:
        byte = track[position]
        position += 1
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            return value, position
