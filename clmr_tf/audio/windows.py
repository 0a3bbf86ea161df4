"""Windows of many files, decoded in a background thread; memory use does not depend on the length of a file."""

import dataclasses
import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from clmr_tf.audio.decoding import UNREADABLE, AudioReport, UnreadableAudioError
from clmr_tf.audio.isolation import IsolatedDecoder

_MAX_QUEUED_WINDOWS = 256
# How often a thread that waits for space in the queue checks whether it should stop.
_STOP_CHECK_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Window:
    """A window of a file.

    Attributes:
        file: Index of the file.
        first_sample: Start of the window, at the rate of the windows.
        audio: float32 [clip_num_samples].
    """

    file: int
    first_sample: int
    audio: np.ndarray


@dataclasses.dataclass(frozen=True)
class FileEnd:
    """Follows the windows of a file.

    Attributes:
        file: Index of the file.
        report: Properties of its audio.
        error: Set if the file cannot be used; its windows must then be discarded.
    """

    file: int
    report: AudioReport = dataclasses.field(default_factory=AudioReport)
    error: UnreadableAudioError | None = None


def window_starts(num_samples: int, clip_num_samples: int, hop_samples: int | None = None) -> np.ndarray:
    """Offsets of the windows that evaluation cuts a recording into: int64 [windows].

    Only whole windows; a remainder at the end is dropped. `hop_samples` defaults to the window's length.
    """
    hop_samples = clip_num_samples if hop_samples is None else hop_samples
    return np.arange(0, num_samples - clip_num_samples + 1, hop_samples, dtype=np.int64)


def stream_windows(
    files: Sequence[Path],
    clip_num_samples: int,
    sample_rate_hz: int,
    hop_num_samples: int,
    decoder: IsolatedDecoder,
) -> Iterator[Window | FileEnd]:
    """Yields the windows of each file in order, followed by its end.

    A file shorter than a window gives one window, padded with zeros; the remainder of a longer file is dropped.

    Args:
        files: Audio files.
        clip_num_samples: Length of a window.
        sample_rate_hz: Rate of the windows.
        hop_num_samples: Distance between the starts of windows, at least 1.
        decoder: Decodes the files.
    """
    items: queue.Queue = queue.Queue(_MAX_QUEUED_WINDOWS)
    is_stopped = threading.Event()

    def put(item: object) -> bool:
        while not is_stopped.is_set():
            try:
                items.put(item, timeout=_STOP_CHECK_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def decode() -> None:
        try:
            for file, path in enumerate(files):
                for item in _windows_of(file, path, clip_num_samples, sample_rate_hz, hop_num_samples, decoder):
                    if not put(item):
                        return
            put(None)
        except Exception as error:  # noqa: BLE001 - raised again where the windows are consumed
            put(error)

    thread = threading.Thread(target=decode, name="decoder", daemon=True)
    thread.start()
    try:
        while (item := items.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        is_stopped.set()
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
    # Samples from `next_start` on; empty if that has not been decoded yet.
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
