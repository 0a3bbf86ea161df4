"""Decoding whole audio files outside any graph: any format, rate and channel count to mono float32.

libsndfile decodes first; PyAV, where it is installed, takes what libsndfile does not know (AAC, WMA, ALAC).
Channels are averaged and the mix is resampled with soxr's VHQ. Everything flows in blocks, so the memory
needed does not grow with the length of a file or the number of its channels.
"""

import contextlib
import dataclasses
import itertools
import stat
from collections.abc import Iterator
from importlib import metadata
from os import fsencode
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr

from clmr_tf.audio_signatures import describe_other_content, read_head
from clmr_tf.errors import ClmrError

if TYPE_CHECKING:
    import av

UNREADABLE = "unreadable"
NOT_AUDIO = "not_audio"
RESAMPLING_QUALITY = "VHQ"

_VALUES_PER_BLOCK = 1 << 18
# A header that claims less or more is damaged, and resampling from it could blow one file up to a whole disk.
_LOWEST_RATE_HZ, _HIGHEST_RATE_HZ = 2_000, 1_000_000
# Float files hold overshoots, but thirty times full scale means 16-bit integers stored as floats.
_HIGHEST_PLAUSIBLE_PEAK = 32.0


class UnreadableAudioError(ClmrError):
    """A file cannot be used as audio.

    Attributes:
        reason: One word for programs, such as "unreadable" or "not_audio".
        detail: The same for people, without the file's path.
        path: The file, where known.
    """

    def __init__(self, reason: str, detail: str, path: Path | None = None) -> None:
        # All arguments go to the base class, so that the error survives the way between two processes.
        super().__init__(reason, detail, path)
        self.reason = reason
        self.detail = detail
        self.path = path

    def __str__(self) -> str:
        subject = "The file" if self.path is None else str(self.path)
        return f"{subject} cannot be used as audio: {self.detail}."


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
            decoder = _open_decoder(path, stack)
            if not _LOWEST_RATE_HZ <= decoder.rate_hz <= _HIGHEST_RATE_HZ:
                raise UnreadableAudioError(UNREADABLE, f"it claims a sample rate of {decoder.rate_hz} Hz")
        blocks = _resampled(_mixed_to_mono(decoder.blocks), decoder.rate_hz, sample_rate_hz)
        # Around the blocks and not around the yield: what the caller does with them is not the file's fault.
        yield AudioStream(decoder.rate_hz, decoder.num_channels, _all_blamed_on(path, blocks))


@contextlib.contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """Makes whatever fails inside a fault of the file at `path`, for code that does nothing but read it.

    Damaged files reach places in decoders that their authors never saw, so there is no list of what they raise.

    Raises:
        UnreadableAudioError: Instead of every error but those of a missing package and of missing memory.
    """
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except UnreadableAudioError as error:
        raise UnreadableAudioError(error.reason, error.detail, path) from error
    except Exception as error:
        raise UnreadableAudioError(UNREADABLE, _describe(error), path) from error


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


@dataclasses.dataclass(frozen=True)
class _Decoder:
    rate_hz: int
    num_channels: int
    blocks: Iterator[np.ndarray]  # float32 [num_channels, num_frames]


def _open_decoder(path: Path, stack: contextlib.ExitStack) -> _Decoder:
    # Opening a named pipe would wait for a writer, perhaps for ever.
    if not stat.S_ISREG(path.stat().st_mode):
        raise UnreadableAudioError(NOT_AUDIO, "it is not a regular file")
    head = read_head(path)
    if not head:
        raise UnreadableAudioError(UNREADABLE, "it is empty")
    try:
        with blamed_on(path):
            return stack.enter_context(_open_with_libsndfile(path))
    except UnreadableAudioError as error:
        refusal = error.detail
    try:
        with blamed_on(path):
            return stack.enter_context(_open_with_pyav(path))
    except ImportError:
        refusal += " (PyAV, which knows more formats, is not installed)"
    except UnreadableAudioError:
        # Of two refusals, the first is by the decoder that knows the most common formats.
        pass
    other = describe_other_content(head)
    if other is not None:
        raise UnreadableAudioError(NOT_AUDIO, f"its content is {other}")
    raise UnreadableAudioError(UNREADABLE, refusal)


class _SequentialFile(soundfile.SoundFile):
    """Reads on from where it is. soundfile otherwise seeks to the end of every block it has read, and the decoder
    of MP3 then forgets the bits that a frame borrows from those before it: up to a quarter of a file at low bit
    rates comes out wrong.
    """

    def seekable(self) -> bool:
        return False


@contextlib.contextmanager
def _open_with_libsndfile(path: Path) -> Iterator[_Decoder]:
    # As bytes, because soundfile does not encode names that are not UTF-8.
    with _SequentialFile(fsencode(path)) as file:
        yield _Decoder(file.samplerate, file.channels, _blocks_of_libsndfile(file))


def _blocks_of_libsndfile(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    num_frames = max(1, _VALUES_PER_BLOCK // file.channels)
    buffer = np.empty((num_frames, file.channels), np.float32)
    # Not by file.frames, which is an estimate for some MP3.
    while received := file.buffer_read_into(buffer.data.cast("B"), "float32"):
        yield buffer[:received].T


def _describe(error: Exception) -> str:
    if isinstance(error, soundfile.LibsndfileError):
        text = error.error_string.removeprefix("Error : ").rstrip(".")
        # What libsndfile says of every file that is named .mp3 and holds no MPEG frame.
        return "no audio was found in it" if text.startswith("File does not exist") else text
    # The system's errors and FFmpeg's have a `strerror`.
    return getattr(error, "strerror", None) or f"its decoder failed with {type(error).__name__}: {error}"


@contextlib.contextmanager
def _open_with_pyav(path: Path) -> Iterator[_Decoder]:
    import av

    # By number, because PyAV does not encode names that are not UTF-8, and keeps what a Python file raises (damaged
    # headers make FFmpeg seek to places that do not exist) for whatever it decodes next.
    with (
        path.open("rb") as file,
        av.open("fd:", container_options={"fd": str(file.fileno())}, metadata_errors="replace") as container,
    ):
        if not container.streams.audio:
            raise UnreadableAudioError(UNREADABLE, "it has no audio stream")
        frames = container.decode(audio=0)
        first = next(frames, None)
        if first is None:
            raise UnreadableAudioError(UNREADABLE, "its audio stream is empty")
        blocks = _blocks_of_pyav(itertools.chain([first], frames), first.rate)
        yield _Decoder(first.rate, len(first.layout.channels), blocks)


def _blocks_of_pyav(frames: Iterator["av.AudioFrame"], rate_hz: int) -> Iterator[np.ndarray]:
    import av

    to_planar_float = av.AudioResampler(format="fltp")
    for frame in frames:
        if frame.rate != rate_hz:
            raise UnreadableAudioError(UNREADABLE, "its sample rate changes on the way")
        for converted in to_planar_float.resample(frame):
            yield converted.to_ndarray()


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
