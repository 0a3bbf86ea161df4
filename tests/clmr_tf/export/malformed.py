"""Requests that a client should not send: by signature its input, and what the answer has to say."""

import struct
from typing import NamedTuple

import numpy as np

CLIP = 59049
INPUT_OF = {"serving_default": "audio", "waveform": "audio", "wav_bytes": "wav"}


class Request(NamedTuple):
    signature: str
    value: np.ndarray
    # In the answer; None where it may as well be right.
    words: str | None


def wav_bytes(
    data: bytes = bytes(400),
    *,
    rate_hz: int = 44_100,
    num_channels: int = 1,
    kind: int = 1,
    num_bits: int = 16,
    subkind: int | None = None,
    claimed_bytes: int | None = None,
    chunks: bytes = b"",
) -> bytes:
    """A WAV file that says of itself what it is told to, be it true or not."""
    form = struct.pack("<HHIIHH", kind, num_channels, rate_hz, 0, 0, num_bits)
    if subkind is not None:
        form += struct.pack("<HHIH", 22, 16, 0, subkind) + bytes(14)
    body = b"fmt " + struct.pack("<I", len(form)) + form + chunks
    size = len(data) if claimed_bytes is None else claimed_bytes
    return b"RIFF" + struct.pack("<I", 444) + b"WAVE" + body + b"data" + struct.pack("<I", size) + data


def _zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def _files(*contents: bytes) -> np.ndarray:
    return np.array(contents, object)


# As an example of what took 6.7 GB and 77 s once.
SIXTY_MHZ = wav_bytes(num_channels=2, rate_hz=60_000_000)

REQUESTS = (
    *(
        Request("serving_default", _zeros(*shape), f"Clips must be [n, {CLIP}], at least one; received the shape")
        for shape in (
            (CLIP,),
            (),
            (1,),
            (2, CLIP + 1),
            (1, CLIP - 1),
            (1, 0),
            (0, CLIP),
            (0,),
            (1, CLIP, 1),
            (1, 1, CLIP),
        )
    ),
    *(
        Request("waveform", _zeros(*shape), "A waveform must be [samples], at least one; received the shape")
        for shape in ((0,), (), (1, CLIP), (0, 4), (3, 4), (1, 1, 1))
    ),
    *(
        Request(signature, np.full(shape, wrong, np.float32), "Audio must be finite")
        for signature, shape in (("serving_default", (2, CLIP)), ("waveform", (5,)))
        for wrong in (np.nan, np.inf, -np.inf)
    ),
    *(
        Request("wav_bytes", np.full(shape, b"RIFF", object), "Files must be [n], at least one; received the shape")
        for shape in ((0,), (), (1, 1), (0, 1))
    ),
    Request("wav_bytes", _files(b""), "is not a WAV file"),
    Request("wav_bytes", _files(wav_bytes(), b"OggS"), "is not a WAV file"),
    Request("wav_bytes", _files(SIXTY_MHZ), "60000000 Hz"),
    *(Request("wav_bytes", _files(SIXTY_MHZ[:length]), "WAV file") for length in (4, 11, 12, 20, 30, 40, 43, 44)),
    Request("wav_bytes", _files(wav_bytes(rate_hz=0)), "and 0 Hz"),
    Request("wav_bytes", _files(wav_bytes(num_channels=0)), "0 channels"),
    Request("wav_bytes", _files(wav_bytes(num_channels=65_535)), "has no samples"),
    Request("wav_bytes", _files(wav_bytes(num_bits=24)), "with 24 bits"),
    Request("wav_bytes", _files(wav_bytes(kind=3)), "format 3"),
    Request("wav_bytes", _files(wav_bytes(chunks=b"LIST\xff\xff\xff\xff")), "no data"),
    Request("wav_bytes", _files(wav_bytes(chunks=500_000 * b"LIST\0\0\0\0")), "no data"),
    # One long file among short ones: their answers are filled up to its length.
    Request(
        "wav_bytes",
        _files(wav_bytes(bytes(2_000_000), rate_hz=1000), *999 * [wav_bytes()]),
        "may have at most 32768 windows",
    ),
    Request("wav_bytes", _files(*20_000 * [wav_bytes()]), "may have at most 1024 files; received 20000"),
)


def random_request(generator: np.random.Generator) -> Request:
    """One of the above, audio of a random wrong shape, or a file with a damaged header or a wrong end."""
    which = generator.integers(4)
    if which == 0:
        return REQUESTS[generator.integers(len(REQUESTS))]
    if which == 1:
        lengths = (0, 1, 2, 3, CLIP - 1, CLIP + 1)
        shape = tuple(generator.choice(lengths, generator.integers(5)))
        # Of many long axes, one.
        shape = tuple(length if length < 4 or axis == len(shape) - 1 else 1 for axis, length in enumerate(shape))
        return Request("serving_default", _zeros(*shape), "Clips must be")
    content = bytearray(wav_bytes(num_channels=2, chunks=b"LIST\x04\0\0\0test"))
    if which == 2:
        for place in generator.integers(0, 60, generator.integers(1, 6)):
            content[place] = generator.choice([0, 1, 127, 128, 255, generator.integers(256)])
    else:
        content = content[: generator.integers(len(content))]
    return Request("wav_bytes", _files(bytes(content)), None)
