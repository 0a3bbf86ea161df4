"""The decoders of audio files: libsndfile first, PyAV, where it is installed, for what libsndfile does not know."""

import contextlib
import dataclasses
import itertools
import stat
from collections.abc import Iterator
from os import fsencode
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from clmr_tf.audio_signatures import describe_other_content, read_head
from clmr_tf.errors import ClmrError

if TYPE_CHECKING:
    import av

UNREADABLE = "unreadable"
NOT_AUDIO = "not_audio"

_VALUES_PER_BLOCK = 1 << 18


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


@dataclasses.dataclass(frozen=True)
class Decoder:
    """An open file.

    Attributes:
        rate_hz: Its sample rate.
        num_channels: Its channels.
        blocks: Its samples one after the other, float32 [num_channels, num_frames].
    """

    rate_hz: int
    num_channels: int
    blocks: Iterator[np.ndarray]


def open_decoder(path: Path, stack: contextlib.ExitStack) -> Decoder:
    """Opens a file with libsndfile, or else with PyAV.

    Args:
        path: Any regular file.
        stack: Closes it.

    Raises:
        UnreadableAudioError: If neither takes it, for the reason that libsndfile gives.
    """
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
def _open_with_libsndfile(path: Path) -> Iterator[Decoder]:
    # As bytes, because soundfile does not encode names that are not UTF-8.
    with _SequentialFile(fsencode(path)) as file:
        yield Decoder(file.samplerate, file.channels, _blocks_of_libsndfile(file))


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
def _open_with_pyav(path: Path) -> Iterator[Decoder]:
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
        yield Decoder(first.rate, len(first.layout.channels), blocks)


def _blocks_of_pyav(frames: Iterator["av.AudioFrame"], rate_hz: int) -> Iterator[np.ndarray]:
    import av

    to_planar_float = av.AudioResampler(format="fltp")
    for frame in frames:
        if frame.rate != rate_hz:
            raise UnreadableAudioError(UNREADABLE, "its sample rate changes on the way")
        for converted in to_planar_float.resample(frame):
            yield converted.to_ndarray()
