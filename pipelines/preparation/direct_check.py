"""Checks, file by file, that the direct reader gives the same audio as the prepared reader.

tensorflow-io has other decoders than FFmpeg. They agree on intact files of common formats. On other files tensorflow-io
fails, gives noise (WAV of 32-bit integers), or never returns or aborts (damaged files). If FFmpeg is the direct reader,
a file with several parts or wrong timestamps gives other samples than when it is decoded completely. So each file is
read in both ways, in a worker process with a time limit, before training uses it.
"""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from clmr_tf.audio.decoding import UnreadableAudioError, open_audio, reported_as_unreadable
from clmr_tf.data.direct_reader import read_crop, tensorflow_io_decoders
from pipelines.preparation.transcoding import MeasuredAudio, TranscodingTask, measured

NO_DIRECT_DECODER = "no_direct_decoder"
DECODERS_DISAGREE = "decoders_disagree"

_EXCERPT_NUM_SAMPLES = 22050
# Half a minute at the usual rate, and coprime to every sample rate, so that excerpts begin at all phases of the
# resampler.
_EXCERPT_SPACING_SAMPLES = 661_511
_MAX_NUM_COMPARISONS = 12
# A shift by one sample changes music by more than this (its spectrum's centre is above 35 Hz), the different
# roll-offs of the two resamplers by less than a tenth of it.
_RELATIVE_TOLERANCE = 0.01
_ABSOLUTE_TOLERANCE = 1e-6
# Left out at both ends of an excerpt: after the end of the file, the prepared reader's resampler has silence, and that
# of tensorflow-io may have the encoder's padding of the last frame.
_EDGE_SAMPLES = 64
# tensorflow-io stores the sizes in a WAV header as signed 32-bit integers, and aborts the process if they are larger.
_MAX_WAV_BYTES = 2**31


def validate(task: TranscodingTask) -> MeasuredAudio:
    """Compares both readers at a file's start, its end and up to ten positions in between; writes nothing.

    The digest of the result is that of the file, since the direct reader reads the file.

    Raises:
        UnreadableAudioError: See `transcode`; also if tensorflow-io cannot decode the file ("no_direct_decoder"), or if
            the readers give different audio ("decoders_disagree").
    """
    path, sample_rate_hz = task.path, task.sample_rate_hz
    _hide_gpus()
    with reported_as_unreadable(path), open_audio(path, sample_rate_hz) as stream:
        if tensorflow_io_decoders() is not None:
            _refuse_large_wav(path)
        survey = _Survey()
        for block in stream.blocks:
            survey.add(block)
    if stream.report.lost_seconds > 0:
        detail = f"about {stream.report.lost_seconds:.2f} s of it are damaged, and only intact files are read directly"
        raise UnreadableAudioError(NO_DIRECT_DECODER, detail, path)
    decoder = "FFmpeg" if tensorflow_io_decoders() is None else "tensorflow-io"
    read_excerpt = _excerpt_reader(sample_rate_hz)
    for start, expected in survey.comparisons():
        seconds = start / sample_rate_hz
        try:
            received = read_excerpt(os.fsencode(path), start)
        except tf.errors.OpError as error:
            detail = f"{decoder} cannot decode it at {seconds:.1f} s ({_format_of(path)})"
            raise UnreadableAudioError(NO_DIRECT_DECODER, detail, path) from error
        if not are_same(received, expected):
            detail = f"{decoder} decodes it differently when it begins at {seconds:.1f} s ({_format_of(path)})"
            raise UnreadableAudioError(DECODERS_DISAGREE, detail, path)
    with reported_as_unreadable(path), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return measured(task, stream, digest)


class _Survey:
    """Keeps the length and some excerpts of a stream, so that a long file needs little memory."""

    def __init__(self) -> None:
        self.num_samples = 0
        self._excerpts: dict[int, np.ndarray] = {}
        self._next_start = 0
        self._recent = np.zeros(0, np.float32)

    def add(self, block: np.ndarray) -> None:
        """Adds the next samples of the stream, float32 [any number]."""
        if not len(block):
            return
        self.num_samples += len(block)
        recent = np.concatenate([self._recent, block])
        first = self.num_samples - len(recent)
        while self._next_start + _EXCERPT_NUM_SAMPLES <= self.num_samples:
            begin = self._next_start - first
            self._excerpts[self._next_start] = recent[begin : begin + _EXCERPT_NUM_SAMPLES].copy()
            self._next_start += _EXCERPT_SPACING_SAMPLES
        # The next excerpt may begin in the last samples, and the stream may end with them.
        self._recent = recent[-_EXCERPT_NUM_SAMPLES:].copy()

    def comparisons(self) -> Iterator[tuple[int, np.ndarray]]:
        """Start and samples of each excerpt: float32 [_EXCERPT_NUM_SAMPLES], with zeros after the stream's end."""
        starts = sorted(self._excerpts)
        num_compared = min(len(starts), _MAX_NUM_COMPARISONS - 1)
        for rank in np.linspace(0, len(starts) - 1, num_compared).round().astype(int):
            yield starts[rank], self._excerpts[starts[rank]]
        missing = _EXCERPT_NUM_SAMPLES - len(self._recent)
        yield self.num_samples - len(self._recent), np.pad(self._recent, [0, missing])


def are_same(received: np.ndarray, expected: np.ndarray) -> bool:
    """Whether two readers' excerpts, float32 [num_samples], differ by no more than their resamplers do.

    A shift by one sample, another gain or a missing channel is a difference; NaN is one too. `expected` may
    overshoot [-1, 1] and is clipped as corpora are.
    """
    inner = slice(_EDGE_SAMPLES, -_EDGE_SAMPLES)
    expected = np.clip(expected[inner], -1.0, 1.0)
    difference = _rms(received[inner] - expected)
    # Not "difference > ...", which would accept NaN.
    return bool(difference <= _RELATIVE_TOLERANCE * _rms(expected) + _ABSOLUTE_TOLERANCE)


def _rms(samples: np.ndarray) -> np.float32:
    return np.sqrt(np.mean(np.square(samples)))


@functools.cache
def _excerpt_reader(sample_rate_hz: int) -> Callable[[bytes, int], np.ndarray]:
    # A graph, as in training, since eager execution uses other code.
    @tf.function(input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)], autograph=False)
    def read(path: tf.Tensor, offset_samples: tf.Tensor) -> tf.Tensor:
        return read_crop(path, offset_samples, num_samples=_EXCERPT_NUM_SAMPLES, sample_rate_hz=sample_rate_hz)

    return lambda path, start: read(tf.constant(path), tf.constant(start, tf.int64)).numpy()


def _hide_gpus() -> None:
    # Otherwise every worker would allocate the memory of all GPUs. RuntimeError if TensorFlow has already started,
    # which never happens in a worker.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")


def _refuse_large_wav(path: Path) -> None:
    with path.open("rb") as file:
        is_large = os.fstat(file.fileno()).st_size >= _MAX_WAV_BYTES
        if is_large and file.read(4) == b"RIFF":
            raise UnreadableAudioError(NO_DIRECT_DECODER, "tensorflow-io reads WAV only below 2 GiB", path)


def _format_of(path: Path) -> str:
    return path.suffix or "no extension"
