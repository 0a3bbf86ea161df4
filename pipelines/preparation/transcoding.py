"""The work on one file: decode it to mono 16-bit PCM."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np

from clmr_tf.audio.decoding import AudioStream, UnreadableAudioError, open_audio, reported_as_unreadable
from clmr_tf.data.corpus import PCM_DTYPE

TOO_SHORT = "too_short"
SILENT = "silent"


@dataclasses.dataclass(frozen=True, slots=True)
class TranscodingTask:
    """One file to decode.

    Attributes:
        path: The file.
        part: File for its PCM; unused if the corpus refers to its source files.
        sample_rate_hz: Sample rate of the corpus.
        min_num_samples: Shortest recording to keep, in samples at that rate.
    """

    path: Path
    part: Path
    sample_rate_hz: int
    min_num_samples: int


@dataclasses.dataclass(frozen=True)
class MeasuredAudio:
    """Measurements of a file and its audio; the attributes are those of `clmr_tf.data.corpus.Item`."""

    num_samples: int
    digest: str
    source_rate_hz: int
    source_num_channels: int
    source_num_bytes: int
    lost_seconds: float


def transcode(task: TranscodingTask) -> MeasuredAudio:
    """Writes the file's audio to `task.part` as mono 16-bit PCM.

    Raises:
        UnreadableAudioError: If it cannot be decoded ("unreadable", "not_audio") or used ("too_short", "silent").
            `task.part` may exist or not.
        OSError: If the part cannot be written.
    """
    digest = hashlib.sha256()
    with open_audio(task.path, task.sample_rate_hz) as stream, task.part.open("wb") as part:
        for block in stream.blocks:
            pcm = to_pcm16(block).tobytes()
            part.write(pcm)
            digest.update(pcm)
    return measured(task, stream, digest.hexdigest())


def to_pcm16(samples: np.ndarray) -> np.ndarray:
    """float32 samples in [-1, 1) to 16 bits: rounded, and clipped where they overshoot.

    Without dither, so that the same file gives the same bytes; rounding is 98 dB below full scale, far below
    the noise that the augmentations add. The readers divide by 32768, which is exact.
    """
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(PCM_DTYPE)


def measured(task: TranscodingTask, stream: AudioStream, sha256: str) -> MeasuredAudio:
    """Checks that a recording can be trained on, and returns its measurements for the index.

    Args:
        task: The file to decode.
        stream: The file, after its last block.
        sha256: Hex digest of the bytes that training will read.

    Raises:
        UnreadableAudioError: "too_short" or "silent"; "unreadable" if the file was removed meanwhile.
    """
    report = stream.report
    if report.num_samples < task.min_num_samples:
        seconds, needed = report.num_samples / task.sample_rate_hz, task.min_num_samples / task.sample_rate_hz
        raise UnreadableAudioError(TOO_SHORT, f"it lasts {seconds:.3f} s, a clip {needed:.3f} s", task.path)
    if report.is_silent:
        why = "its channels cancel each other when they are mixed" if report.channels_cancel else "from start to end"
        raise UnreadableAudioError(SILENT, f"it is silent: {why}", task.path)
    with reported_as_unreadable(task.path):
        num_bytes = task.path.stat().st_size
    return MeasuredAudio(
        report.num_samples,
        sha256[:16],
        stream.source_rate_hz,
        stream.source_num_channels,
        num_bytes,
        round(report.lost_seconds, 3),
    )
