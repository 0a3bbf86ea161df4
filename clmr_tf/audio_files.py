"""Decoding whole audio files outside any graph: any format, rate and channel count to mono float32.

libsndfile decodes first; PyAV, where it is installed, takes what libsndfile does not know (AAC, WMA, ALAC).
Channels are averaged and the mix is resampled with soxr's VHQ. Everything flows in blocks, so the memory
needed does not grow with the length of a file or the number of its channels.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import soundfile
import soxr

from clmr_tf.audio_decoders import UNREADABLE, UnreadableAudioError, blamed_on, open_decoder

RESAMPLING_QUALITY = "VHQ"

# A header that claims less or more is damaged, and resampling from it could blow one file up to a whole disk.
_LOWEST_RATE_HZ, _HIGHEST_RATE_HZ = 2_000, 1_000_000
# Float files hold overshoots, but thirty times full scale means 16-bit integers stored as floats.
_HIGHEST_PLAUSIBLE_PEAK = 32.0


@dataclasses.dataclass(frozen=True)
class AudioStream:
    """An open file: what it is, and its audio as an iterator that can be used once.

    Attributes:
        source_rate_hz: Sample rate of the file.
        source_num_channels: Channels of the file.
        blocks: Mono float32 [num_samples] pieces of any length at the wanted rate, nominally in [-1, 1]:
            lossy codecs and float files may overshoot.
    """

    source_rate_hz: int
    source_num_channels: int
    blocks: Iterator[np.ndarray]


def load_audio(path: Path | str, sample_rate_hz: int) -> np.ndarray:
    """Decodes a whole file to mono.

    Args:
        path: Any regular file that libsndfile or PyAV reads.
        sample_rate_hz: Wanted rate; the result has round(num_frames * sample_rate_hz / source rate) samples.

    Returns:
        float32 [num_samples], nominally in [-1, 1].

    Raises:
        UnreadableAudioError: If the file cannot be decoded to its end or holds NaN or infinite samples.
    """
    with open_audio(path, sample_rate_hz) as stream:
        return np.concatenate([np.zeros(0, np.float32), *stream.blocks])


@contextlib.contextmanager
def open_audio(path: Path | str, sample_rate_hz: int) -> Iterator[AudioStream]:
    """Opens a file for decoding in blocks; the concatenated blocks are what `load_audio` returns.

    A file that was cut off gives what is there, but for FLAC, whose decoder reports the missing rest as an
    error. MP3 without a Xing header is at most as long as libsndfile estimates from its first frames.

    Args:
        path: Any regular file that libsndfile or PyAV reads.
        sample_rate_hz: Rate of the blocks.

    Raises:
        UnreadableAudioError: On opening or on taking a block, see `load_audio`.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        with blamed_on(path):
            decoder = open_decoder(path, stack)
            if not _LOWEST_RATE_HZ <= decoder.rate_hz <= _HIGHEST_RATE_HZ:
                raise UnreadableAudioError(UNREADABLE, f"it claims a sample rate of {decoder.rate_hz} Hz")
        blocks = _resampled(_mixed_to_mono(decoder.blocks), decoder.rate_hz, sample_rate_hz)
        # Around the blocks and not around the yield: what the caller does with them is not the file's fault.
        yield AudioStream(decoder.rate_hz, decoder.num_channels, _all_blamed_on(path, blocks))


def _all_blamed_on(path: Path, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    with blamed_on(path):
        yield from blocks


def decoder_versions() -> dict[str, str]:
    """Versions of the libraries that decide what a file sounds like; "absent" where PyAV is not installed."""
    try:
        av_version = metadata.version("av")
    except metadata.PackageNotFoundError:
        av_version = "absent"
    return {
        "libsndfile": soundfile.__libsndfile_version__,
        "soundfile": soundfile.__version__,
        "soxr": metadata.version("soxr"),
        "av": av_version,
    }


def _mixed_to_mono(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    for block in blocks:
        if not block.size:
            continue
        # Ten times faster than numpy's mean over an axis of two, with the same result.
        mono = block[0].copy()
        with np.errstate(invalid="ignore", over="ignore"):
            for channel in block[1:]:
                mono += channel
            mono /= len(block)
        # NaN and infinity both end up in the largest magnitude.
        peak = float(np.abs(mono).max())
        if not np.isfinite(peak):
            raise UnreadableAudioError(UNREADABLE, "it holds samples that are NaN or infinite")
        if peak > _HIGHEST_PLAUSIBLE_PEAK:
            raise UnreadableAudioError(UNREADABLE, f"its samples reach {peak:.4g} where full scale is 1")
        yield mono


def _resampled(blocks: Iterator[np.ndarray], source_rate_hz: int, sample_rate_hz: int) -> Iterator[np.ndarray]:
    if source_rate_hz == sample_rate_hz:
        yield from blocks
        return
    resampler = soxr.ResampleStream(source_rate_hz, sample_rate_hz, 1, "float32", RESAMPLING_QUALITY)
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
