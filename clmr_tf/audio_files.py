"""Decoding whole audio files outside any graph: any format, rate and channel count to mono float32.

FFmpeg (PyAV) decodes, the channels are mixed as `clmr_tf.downmix` says, and the mix is resampled with soxr's VHQ.
Everything flows in blocks, so the memory needed does not grow with the length of a file or the number of its channels.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import soxr

from clmr_tf.audio_decoders import UNREADABLE, Block, UnreadableAudioError, blamed_on, open_decoder
from clmr_tf.downmix import mixed_to_mono

RESAMPLING_QUALITY = "VHQ"
# -80 dB: three steps of 16 bits, where a recording holds nothing but the dither of its making.
SILENCE_PEAK = 1e-4

# A header that claims less or more is damaged, and resampling from it could blow one file up to a whole disk.
_LOWEST_RATE_HZ, _HIGHEST_RATE_HZ = 2_000, 1_000_000
# Float files hold overshoots, but thirty times full scale means 16-bit integers stored as floats.
_HIGHEST_PLAUSIBLE_PEAK = 32.0


@dataclasses.dataclass
class AudioReport:
    """What is known of a recording once all of it is decoded.

    Attributes:
        num_samples: Its length at the wanted rate.
        peak: Its largest magnitude.
        lost_seconds: How much of the file could not be decoded, estimated.
        channels_cancel: Whether its channels hold sound where their mix is silent.
    """

    num_samples: int = 0
    peak: float = 0.0
    lost_seconds: float = 0.0
    channels_cancel: bool = False

    @property
    def is_silent(self) -> bool:
        """Whether the mono mix holds nothing above -80 dB."""
        return self.peak <= SILENCE_PEAK


@dataclasses.dataclass(frozen=True)
class AudioStream:
    """An open file: what it is, and its audio as an iterator that can be used once.

    Attributes:
        source_rate_hz: Sample rate of the file, or of its first part.
        source_num_channels: Channels of the file, or of its first part.
        report: Complete after the last block.
        blocks: Mono float32 [num_samples] pieces of any length at the wanted rate, nominally in [-1, 1]:
            lossy codecs and float files may overshoot.
    """

    source_rate_hz: int
    source_num_channels: int
    report: AudioReport
    blocks: Iterator[np.ndarray]


def load_audio(path: Path | str, sample_rate_hz: int) -> np.ndarray:
    """Decodes a whole file to mono.

    Args:
        path: Any regular file that FFmpeg reads.
        sample_rate_hz: Wanted rate; the result has round(num_frames * sample_rate_hz / source rate) samples.

    Returns:
        float32 [num_samples], nominally in [-1, 1].

    Raises:
        UnreadableAudioError: If the file cannot be decoded to its end or holds NaN or infinite samples.
    """
    with open_audio(path, sample_rate_hz) as stream:
        return np.concatenate([np.zeros(0, np.float32), *stream.blocks])


def flaws_of(*, is_silent: bool, lost_seconds: float) -> list[str]:
    """What a user should know of a recording that can be used, each as the end of a sentence about it."""
    flaws = ["is silent"] if is_silent else []
    return [*flaws, f"is damaged: about {lost_seconds:.2f} s cannot be decoded"] if lost_seconds > 0 else flaws


@contextlib.contextmanager
def open_audio(path: Path | str, sample_rate_hz: int) -> Iterator[AudioStream]:
    """Opens a file for decoding in blocks; the concatenated blocks are what `load_audio` returns.

    A file that was cut off or is damaged gives what can be decoded; the report says how much cannot.

    Args:
        path: Any regular file that FFmpeg reads.
        sample_rate_hz: Rate of the blocks.

    Raises:
        UnreadableAudioError: On opening or on taking a block, see `load_audio`.
    """
    path = Path(path)
    report = AudioReport()
    with contextlib.ExitStack() as stack:
        with blamed_on(path):
            decoder = open_decoder(path, stack)
            first = next(decoder.blocks)
            _require_plausible_rate(first.rate_hz)

        def blocks() -> Iterator[np.ndarray]:
            mono = _mixed_to_mono(itertools.chain([first], decoder.blocks), report)
            for block in _resampled(mono, sample_rate_hz):
                report.num_samples += len(block)
                report.peak = max(report.peak, float(np.abs(block).max(initial=0.0)))
                yield block
            report.lost_seconds = decoder.lost_seconds

        # Around the blocks and not around the yield: what the caller does with them is not the file's fault.
        yield AudioStream(first.rate_hz, len(first.samples), report, _all_blamed_on(path, blocks()))


def _require_plausible_rate(rate_hz: int) -> None:
    if not _LOWEST_RATE_HZ <= rate_hz <= _HIGHEST_RATE_HZ:
        raise UnreadableAudioError(UNREADABLE, f"it claims a sample rate of {rate_hz} Hz")


def _all_blamed_on(path: Path, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    with blamed_on(path):
        yield from blocks


def decoder_versions() -> dict[str, str]:
    """Versions of the libraries that decide what a file sounds like."""
    import av

    libraries = {name: ".".join(map(str, av.library_versions[name])) for name in ("libavformat", "libavcodec")}
    return {"av": av.__version__, **libraries, "soxr": metadata.version("soxr")}


def _mixed_to_mono(blocks: Iterator[Block], report: AudioReport) -> Iterator[tuple[int, np.ndarray]]:
    """Rate and mono samples of each block."""
    for block in blocks:
        if not block.samples.size:
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            mono = mixed_to_mono(block.samples, block.channel_names)
        # NaN and infinity both end up in the largest magnitude.
        peak = float(np.abs(mono).max())
        if not np.isfinite(peak):
            raise UnreadableAudioError(UNREADABLE, "it holds samples that are NaN or infinite")
        if peak > _HIGHEST_PLAUSIBLE_PEAK:
            raise UnreadableAudioError(UNREADABLE, f"its samples reach {peak:.4g} where full scale is 1")
        if peak <= SILENCE_PEAK and float(np.abs(block.samples).max()) > SILENCE_PEAK:
            report.channels_cancel = True
        yield block.rate_hz, mono


def _resampled(blocks: Iterator[tuple[int, np.ndarray]], sample_rate_hz: int) -> Iterator[np.ndarray]:
    # The rate of joined files may change on the way.
    for source_rate_hz, part in itertools.groupby(blocks, key=lambda block: block[0]):
        _require_plausible_rate(source_rate_hz)
        if source_rate_hz == sample_rate_hz:
            yield from (samples for _, samples in part)
            continue
        resampler = soxr.ResampleStream(source_rate_hz, sample_rate_hz, 1, "float32", RESAMPLING_QUALITY)
        for _, samples in part:
            yield resampler.resample_chunk(samples)
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
