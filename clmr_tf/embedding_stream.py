"""Files to embeddings, one file after the other, in memory that their length does not make grow by much."""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from clmr_tf.audio_files import flaws_of
from clmr_tf.audio_listing import SkippedFile
from clmr_tf.console import printable
from clmr_tf.encoder import Encoder
from clmr_tf.errors import ClmrError
from clmr_tf.isolated_decoder import IsolatedDecoder
from clmr_tf.window_stream import FileEnd, Window, stream_windows

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class FileEmbedding:
    """The embeddings of a file.

    Attributes:
        path: The file.
        vectors: Of its windows, float32 [n, 512], at least one.
        times_seconds: Where each begins, float64 [n].
        duration_seconds: Length of the file.
        is_padded: Whether it is shorter than a window, and was filled up with zeros.
        is_silent: Whether it holds nothing above -80 dB, so that its embedding says nothing of music.
        lost_seconds: How much of the file could not be decoded, estimated.
    """

    path: Path
    vectors: np.ndarray
    times_seconds: np.ndarray
    duration_seconds: float
    is_padded: bool
    is_silent: bool = False
    lost_seconds: float = 0.0


def stream_embeddings(
    encoder: Encoder,
    files: Sequence[Path],
    decoder: IsolatedDecoder,
    *,
    hop_seconds: float | None = None,
    batch_size: int = 32,
) -> Iterator[FileEmbedding | SkippedFile]:
    """Embeds each file, in order; they are decoded ahead, and windows of several files share a batch.

    Args:
        encoder: From `load_encoder`.
        files: Audio files of any format, rate and length.
        decoder: Decodes them.
        hop_seconds: Distance between windows; the length of a window if None.
        batch_size: Windows in one call of the encoder.

    Raises:
        UsageError: If the hop is less than a sample.
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


def usable(embeddings: Iterable[FileEmbedding | SkippedFile]) -> Iterator[FileEmbedding]:
    """Those of files that could be used; the others, and those that are silent or damaged, are warned of.

    Raises:
        ClmrError: At the end, if there was none.
    """
    num_used = num_skipped = 0
    for one in embeddings:
        if isinstance(one, SkippedFile):
            num_skipped += 1
            _LOG.warning("%s is skipped: %s.", printable(one.source), one.detail)
        else:
            num_used += 1
            for flaw in flaws_of(is_silent=one.is_silent, lost_seconds=one.lost_seconds):
                _LOG.warning("%s %s.", printable(str(one.path)), flaw)
            yield one
    if not num_used:
        raise ClmrError(f"None of the {num_skipped} files could be used as audio; the warnings say why.")
