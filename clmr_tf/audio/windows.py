"""Windows of many files, decoded ahead in a thread while others are encoded, in memory that no file makes grow."""

import dataclasses
import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from clmr_tf.audio.decoding import UNREADABLE, AudioReport, UnreadableAudioError
from clmr_tf.audio.isolation import IsolatedDecoder

_NUM_WAITING_WINDOWS = 256
# How long the thread waits for room before it looks whether anyone still wants windows.
_SECONDS_BETWEEN_LOOKS = 0.2


@dataclasses.dataclass(frozen=True)
class Window:
    """A window of a file.

    Attributes:
        file: Which, by its place in the list.
        first_sample: Where it begins, at the rate of the windows.
        audio: float32 [clip_num_samples].
    """

    file: int
    first_sample: int
    audio: np.ndarray


@dataclasses.dataclass(frozen=True)
class FileEnd:
    """Follows the windows of a file.

    Attributes:
        file: Which.
        report: What is known of its audio.
        error: Why it cannot be used, if it cannot; the windows before it then do not count.
    """

    file: int
    report: AudioReport = dataclasses.field(default_factory=AudioReport)
    error: UnreadableAudioError | None = None


def stream_windows(
    files: Sequence[Path],
    clip_num_samples: int,
    sample_rate_hz: int,
    hop_num_samples: int,
    decoder: IsolatedDecoder,
) -> Iterator[Window | FileEnd]:
    """The windows of each file in order, and its end.

    A file that is shorter than a window gives one that is filled up with zeros; what is left over at the end of a
    longer one, less than a window, is dropped.

    Args:
        files: Audio files of any format, rate and length.
        clip_num_samples: Length of a window.
        sample_rate_hz: Rate of the windows.
        hop_num_samples: Distance between their beginnings, at least 1.
        decoder: Decodes them.
    """
    waiting: queue.Queue = queue.Queue(_NUM_WAITING_WINDOWS)
    is_over = threading.Event()

    def put(one: object) -> bool:
        while not is_over.is_set():
            try:
                waiting.put(one, timeout=_SECONDS_BETWEEN_LOOKS)
            except queue.Full:
                continue
            return True
        return False

    def decode() -> None:
        try:
            for file, path in enumerate(files):
                for one in _windows_of(file, path, clip_num_samples, sample_rate_hz, hop_num_samples, decoder):
                    if not put(one):
                        return
            put(None)
        # Of a thread nobody hears: raised where the windows are taken.
        except Exception as error:  # noqa: BLE001 - see above
            put(error)

    thread = threading.Thread(target=decode, name="decoder", daemon=True)
    thread.start()
    try:
        while (one := waiting.get()) is not None:
            if isinstance(one, Exception):
                raise one
            yield one
    finally:
        is_over.set()
        thread.join()


def _windows_of(
    file: int,
    path: Path,
    clip_num_samples: int,
    sample_rate_hz: int,
    hop_num_samples: int,
    decoder: IsolatedDecoder,
) -> Iterator[Window | FileEnd]:
    num_samples, next_start = 0, 0
    # From `next_start` on, or less where the next window begins behind what has been decoded.
    kept = np.zeros(0, np.float32)
    try:
        with decoder.open(path, sample_rate_hz) as stream:
            for block in stream.blocks:
                kept_start = num_samples - len(kept)
                kept, num_samples = np.concatenate([kept, block]), num_samples + len(block)
                while next_start + clip_num_samples <= num_samples:
                    place = next_start - kept_start
                    yield Window(file, next_start, kept[place : place + clip_num_samples])
                    next_start += hop_num_samples
                kept = kept[max(0, next_start - kept_start) :]
    except UnreadableAudioError as error:
        yield FileEnd(file, error=error)
        return
    if num_samples == 0:
        yield FileEnd(file, error=UnreadableAudioError(UNREADABLE, "it has no samples"))
        return
    if num_samples < clip_num_samples:
        yield Window(file, 0, np.pad(kept, (0, clip_num_samples - num_samples)))
    yield FileEnd(file, stream.report)
