"""From a source track to an excerpt: decode, mix, resample, choose 30 s, encode."""

import io
import zlib

import numpy as np
import soundfile
import soxr

from clmr_tf.errors import ClmrError

SAMPLE_RATE_HZ = 22_050
EXCERPT_SECONDS = 30
EXCERPT_SAMPLES = EXCERPT_SECONDS * SAMPLE_RATE_HZ
GRID_SECONDS = 5

# At this quality Vorbis overshoots a peak by up to 8 %, so decoded excerpts stay inside [-1, 1].
PEAK_LIMIT = 0.9

# Vorbis quality 0.55: about 215 kB for 30 s of mono, with a signal-to-error ratio of 25 dB.
COMPRESSION_LEVEL = 0.45

_SERIAL_NUMBER = 1


def decode_mono(source: bytes) -> np.ndarray:
    """Decodes a sound file, averages its channels and resamples it (soxr, very high quality).

    Returns:
        float32 [samples] at `SAMPLE_RATE_HZ`; may exceed [-1, 1], as decoders of lossy formats do.

    Raises:
        ClmrError: If libsndfile cannot read it.
    """
    try:
        audio, rate_hz = soundfile.read(io.BytesIO(source), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ClmrError(f"A source track cannot be decoded ({error}); leave it out of selection.csv.") from error
    return soxr.resample(audio.mean(axis=1), rate_hz, SAMPLE_RATE_HZ, quality="VHQ")


def loudest_start_seconds(audio: np.ndarray) -> int:
    """Start of the loudest excerpt in seconds, on a grid of `GRID_SECONDS`; the earliest if several are equal.

    Loudness is the standard deviation, not the root mean square, since some tracks have a constant offset.

    Raises:
        ClmrError: If `audio` is shorter than an excerpt.
    """
    if len(audio) < EXCERPT_SAMPLES:
        raise ClmrError(
            f"A source track lasts {len(audio) / SAMPLE_RATE_HZ:.1f} s instead of at least {EXCERPT_SECONDS} s; "
            "leave it out of selection.csv."
        )
    last_start_seconds = (len(audio) - EXCERPT_SAMPLES) // SAMPLE_RATE_HZ
    starts_seconds = range(0, last_start_seconds + 1, GRID_SECONDS)
    return max(starts_seconds, key=lambda start_seconds: float(np.std(_window(audio, start_seconds))))


def cut_excerpt(audio: np.ndarray, start_seconds: int) -> np.ndarray:
    """Cuts an excerpt, removes a constant offset, and lowers the level only if it would clip.

    Returns:
        float32 [EXCERPT_SAMPLES] in [-PEAK_LIMIT, PEAK_LIMIT].
    """
    excerpt = _window(audio, start_seconds)
    excerpt = excerpt - np.mean(excerpt, dtype=np.float64).astype(np.float32)
    return excerpt * min(1.0, PEAK_LIMIT / max(float(np.max(np.abs(excerpt))), 1e-9))


def encode_vorbis(excerpt: np.ndarray, title: str, author: str, licence_url: str) -> bytes:
    """Encodes an excerpt as Ogg Vorbis, with its title, author and licence as tags.

    Args:
        excerpt: float32 [samples] at `SAMPLE_RATE_HZ` in [-1, 1].
        title: Title of the source track.
        author: Author of the source track.
        licence_url: The licence of the track and the excerpt.

    Returns:
        The file. The same input and library versions give the same bytes.
    """
    file = io.BytesIO()
    with soundfile.SoundFile(
        file,
        mode="w",
        samplerate=SAMPLE_RATE_HZ,
        channels=1,
        format="OGG",
        subtype="VORBIS",
        compression_level=COMPRESSION_LEVEL,
    ) as writer:
        writer.title = title
        writer.artist = author
        writer.license = licence_url
        writer.comment = f"{EXCERPT_SECONDS} s excerpt, mixed to mono, resampled and encoded again."
        writer.write(excerpt)
    return with_serial_number(file.getvalue(), _SERIAL_NUMBER)


def _window(audio: np.ndarray, start_seconds: int) -> np.ndarray:
    start = start_seconds * SAMPLE_RATE_HZ
    return audio[start : start + EXCERPT_SAMPLES]


_CAPTURE_PATTERN = b"OggS"
_SERIAL = slice(14, 18)
_CHECKSUM = slice(22, 26)
_NUM_SEGMENTS = 26
_HEADER_BYTES = 27
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def with_serial_number(stream: bytes, serial_number: int) -> bytes:
    """Replaces the serial number in all pages of an Ogg file, and their checksums.

    Encoders draw the serial number at random; with a fixed one the same audio gives the same bytes. Page layout and
    checksum: RFC 3533, section 6.

    Args:
        stream: A whole Ogg file of one logical stream.
        serial_number: The new one, 0 to 2**32 - 1.

    Raises:
        ClmrError: If `stream` is not a sequence of whole Ogg pages.
    """
    pages = []
    start = 0
    while start < len(stream):
        body = start + _HEADER_BYTES
        if stream[start : start + 4] != _CAPTURE_PATTERN or body > len(stream):
            raise ClmrError(f"No Ogg page at byte {start} of {len(stream)}; encode the audio again.")
        lacing = stream[body : body + stream[start + _NUM_SEGMENTS]]
        end = body + len(lacing) + sum(lacing)
        if end > len(stream):
            raise ClmrError(f"The Ogg page at byte {start} of {len(stream)} is cut off; encode again.")
        page = bytearray(stream[start:end])
        page[_SERIAL] = serial_number.to_bytes(4, "little")
        page[_CHECKSUM] = bytes(4)
        page[_CHECKSUM] = _checksum(page).to_bytes(4, "little")
        pages.append(page)
        start = end
    return b"".join(pages)


def _checksum(page: bytes) -> int:
    # Ogg's CRC-32 has zlib's polynomial, but processes the bits of a byte in reverse order and inverts nothing.
    mirrored = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
