"""Ogg pages with another serial number, against the definition of the format."""

import io

import numpy as np
import pytest
import soundfile

from clmr_tf.errors import ClmrError
from pipelines.demo_data.excerpts import encode_vorbis, with_serial_number


def slow_ogg_checksum(page):
    """The checksum of RFC 3533, bit by bit: polynomial 0x04c11db7, starting at 0, nothing inverted."""
    remainder = 0
    for byte in page[:22] + bytes(4) + page[26:]:
        remainder ^= byte << 24
        for _ in range(8):
            remainder = (remainder << 1) ^ (0x04C11DB7 if remainder & 0x80000000 else 0)
            remainder &= 0xFFFFFFFF
    return remainder


def test_serial_number_is_replaced_in_every_page_and_the_sound_kept():
    audio = (0.3 * np.sin(0.125 * np.arange(44_100))).astype(np.float32)
    stream = encode_vorbis(audio, "Title", "Author", "https://example.org/")
    renamed = with_serial_number(stream, 0xDEADBEEF)
    starts = [start for start in range(len(renamed)) if renamed[start : start + 4] == b"OggS"]
    assert len(starts) >= 3
    for start, end in zip(starts, [*starts[1:], len(renamed)], strict=True):
        page = renamed[start:end]
        assert page[14:18] == bytes.fromhex("efbeadde")
        assert int.from_bytes(page[22:26], "little") == slow_ogg_checksum(page)
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(renamed))[0], soundfile.read(io.BytesIO(stream))[0])
    assert with_serial_number(renamed, 1) == stream


def test_serial_number_of_a_damaged_stream_is_an_error():
    stream = encode_vorbis(np.zeros(22_050, np.float32), "T", "A", "L")
    for damaged in (stream[:-5], stream[:20], b"RIFF" + stream, stream + b"OggS"):
        with pytest.raises(ClmrError, match="Ogg page"):
            with_serial_number(damaged, 1)
