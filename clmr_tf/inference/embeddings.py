"""Computes embeddings of many files, one after the other."""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clmr_tf.audio.decoding import flaws_of
from clmr_tf.audio.isolation import IsolatedDecoder
from clmr_tf.audio.listing import SkippedFile
from clmr_tf.audio.windows import FileEnd, Window, stream_windows
from clmr_tf.console import printable
from clmr_tf.errors import ClmrError

if TYPE_CHECKING:
    from clmr_tf.inference.encoder import Encoder

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class FileEmbedding:
    """The embeddings of a file.

    Attributes:
        path: The file.
        vectors: Embeddings of its windows, float32 [n, 512], n >= 1.
        times_seconds: Start of each window, float64 [n].
        duration_seconds: Length of the recording.
        is_padded: Whether it is shorter than a window and was padded with zeros.
        is_silent: Whether its peak is below -80 dB, so that its embedding is meaningless.
        lost_seconds: Estimated length of what could not be decoded.
    """

    path: Path
    vectors: np.ndarray
    times_seconds: np.ndarray
    duration_seconds: float
    is_padded: bool
    is_silent: bool = False
    lost_seconds: float = 0.0


def stream_embeddings(
    encoder: "Encoder",
    files: Sequence[Path],
    decoder: IsolatedDecoder,
    *,
    hop_seconds: float | None = None,
    batch_size: int = 32,
) -> Iterator[FileEmbedding | SkippedFile]:
    """Embeds files in order; decodes ahead, and fills batches with windows from several files.

    Args:
        encoder: From `load_encoder`.
        files: Audio files of any format, sample rate and length.
        decoder: Decodes the files.
        hop_seconds: Time between the starts of two windows. Default: the length of a window.
        batch_size: Windows per call of the encoder.

    Raises:
        UsageError: If the hop is shorter than a sample.
    """
    hop = encoder.hop_num_samples(hop_seconds)
    waiting: list[Window] = []
    ends: list[FileEnd] = []
    vectors: dict[int, list[np.ndarray]] = {}
    starts: dict[int, list[int]] = {}

    def encode() -> Iterator[FileEmbedding | SkippedFile]:
        if waiting:
            encoded = encoder.encode_clips(np.stack([window.audio for window in waiting]), batch_size)
            for window, vector in zip(waiting, encoded, strict=True):
                vectors.setdefault(window.file, []).append(vector)
                starts.setdefault(window.file, []).append(window.first_sample)
            waiting.clear()
        for end in ends:
            own, begins = vectors.pop(end.file, []), starts.pop(end.file, [])
            if end.error:
                yield SkippedFile(str(files[end.file]), end.error.reason, end.error.detail)
                continue
            yield FileEmbedding(
                files[end.file],
                np.stack(own),
                np.array(begins) / encoder.sample_rate_hz,
                end.report.num_samples / encoder.sample_rate_hz,
                end.report.num_samples < encoder.clip_num_samples,
                end.report.is_silent,
                end.report.lost_seconds,
            )
        ends.clear()

    for one in stream_windows(files, encoder.clip_num_samples, encoder.sample_rate_hz, hop, decoder):
        if isinstance(one, FileEnd):
            ends.append(one)
        else:
            waiting.append(one)
        if len(waiting) == batch_size:
            yield from encode()
    yield from encode()


def warn_about(one: FileEmbedding | SkippedFile) -> None:
    """Logs a warning about a file that was skipped, is silent or is damaged."""
    if isinstance(one, SkippedFile):
        _LOG.warning("%s is skipped: %s.", printable(one.source), one.detail)
        return
    for flaw in flaws_of(is_silent=one.is_silent, lost_seconds=one.lost_seconds):
        _LOG.warning("%s %s.", printable(str(one.path)), flaw)


def usable(embeddings: Iterable[FileEmbedding | SkippedFile]) -> Iterator[FileEmbedding]:
    """Yields the embeddings, and warns about skipped, silent and damaged files.

    Raises:
        ClmrError: At the end, if there were no embeddings.
    """
    num_used = num_skipped = 0
    for one in embeddings:
        warn_about(one)
        if isinstance(one, SkippedFile):
            num_skipped += 1
        else:
            num_used += 1
            yield one
    if not num_used:
        raise ClmrError(f"None of the {num_skipped} files could be used as audio; see the warnings.")
