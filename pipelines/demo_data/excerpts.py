"""From a source track to an excerpt: decode, mix, resample, choose 30 s, encode."""

import io

import numpy as np
import soundfile
import soxr

from clmr_tf.errors import ClmrError
from pipelines.demo_data.ogg import with_serial_number

SAMPLE_RATE_HZ = 22_050
EXCERPT_SECONDS = 30
EXCERPT_SAMPLES = EXCERPT_SECONDS * SAMPLE_RATE_HZ
GRID_SECONDS = 5

# At this quality Vorbis overshoots a peak by up to 8 %, so decoded excerpts stay inside [-1, 1].
PEAK_LIMIT = 0.9

# Vorbis quality 0.55: about 215 kB for 30 s of mono, 25 dB above its own error.
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
    """Where the loudest excerpt begins, on a grid of `GRID_SECONDS`; the earliest of equals.

    Loudness is the standard deviation, not the root mean square: some tracks carry a constant offset.

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
    """Cuts an excerpt, removes a constant offset, and turns it down only where it would clip.

    Returns:
        float32 [EXCERPT_SAMPLES] in [-PEAK_LIMIT, PEAK_LIMIT].
    """
    excerpt = _window(audio, start_seconds)
    excerpt = excerpt - np.mean(excerpt, dtype=np.float64).astype(np.float32)
    return excerpt * min(1.0, PEAK_LIMIT / max(float(np.max(np.abs(excerpt))), 1e-9))


def encode_vorbis(excerpt: np.ndarray, title: str, author: str, licence_url: str) -> bytes:
    """Encodes an excerpt as Ogg Vorbis that names its title, author and licence.

    Args:
        excerpt: float32 [samples] at `SAMPLE_RATE_HZ` in [-1, 1].
        title: Title of the source track.
        author: Who made the source track.
        licence_url: The licence of both.

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
