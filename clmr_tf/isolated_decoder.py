"""Decodes files in a process of its own, so that one that crashes or stops its decoder costs that file alone."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clmr_tf.audio_decoders import CRASHED, TIMED_OUT, UnreadableAudioError, blamed_on
from clmr_tf.audio_files import AudioReport, AudioStream, open_audio
from clmr_tf.errors import ClmrError
from clmr_tf.worker_process import WorkerProcess

# A reply of some seconds of audio takes milliseconds; a sleeping disk takes longer.
_REPLY_LIMIT_SECONDS = 60.0
_NUM_SAMPLES_PER_REPLY = 1 << 17


class IsolatedDecoder:
    """Opens files like `clmr_tf.audio_files.open_audio`, in another process, which is started at once.

    A context manager, whose end is that of the process. One file at a time, from any one thread.

    Args:
        reply_limit_seconds: How long the next piece of a file may take.
    """

    def __init__(self, reply_limit_seconds: float = _REPLY_LIMIT_SECONDS) -> None:
        self._reply_limit_seconds = reply_limit_seconds
        self._worker: WorkerProcess | None = WorkerProcess(_reply)

    def __enter__(self) -> "IsolatedDecoder":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @contextlib.contextmanager
    def open(self, path: Path, sample_rate_hz: int) -> Iterator[AudioStream]:
        """Opens a file; see `open_audio`.

        Raises:
            UnreadableAudioError: Also if the decoder crashes ("crashed") or stops answering ("timed_out").
        """
        with blamed_on(path):
            opened = self._ask(_Request(path, sample_rate_hz))
        report = AudioReport()

        def blocks() -> Iterator[np.ndarray]:
            while True:
                with blamed_on(path):
                    block, at_end = self._ask(None)
                if at_end is not None:
                    vars(report).update(dataclasses.asdict(at_end))
                yield block
                if at_end is not None:
                    return

        yield AudioStream(*opened, report, blocks())

    def _ask(self, request: "_Request | None") -> tuple:
        worker = self._running_worker()
        worker.give(request, request or "next", self._reply_limit_seconds)
        try:
            if not worker.connection.poll(self._reply_limit_seconds):
                self._end()
                limit = f"{self._reply_limit_seconds:g} s"
                raise UnreadableAudioError(TIMED_OUT, f"its decoder gave no audio for {limit} and was stopped")
            result, error = worker.receive()
        except EOFError as error:
            exit_code = self._end()
            raise UnreadableAudioError(CRASHED, f"its decoder crashed (exit code {exit_code})") from error
        if error is not None:
            raise error
        return result

    def _running_worker(self) -> WorkerProcess:
        self._worker = self._worker or WorkerProcess(_reply)
        if not self._worker.is_ready:
            # It ends while it starts: no reply, as if it took too long.
            with contextlib.suppress(EOFError):
                if self._worker.connection.poll(max(0.0, self._worker.deadline - time.monotonic())):
                    self._worker.receive()
            if not self._worker.is_ready:
                exit_code = self._end()
                raise ClmrError(
                    f"The process that decodes files cannot start (exit code {exit_code}); free some memory."
                )
        return self._worker

    def _end(self) -> int | None:
        worker, self._worker = self._worker, None
        return worker.end() if worker is not None else None


@dataclasses.dataclass(frozen=True)
class _Request:
    path: Path
    sample_rate_hz: int


class _OpenFile:
    """The file that the process is at."""

    stack = contextlib.ExitStack()
    stream: AudioStream | None = None


def _reply(request: _Request | None) -> tuple:
    """In the process: opens a file, or gives the next samples of the open one and at its end the report."""
    if request is not None:
        _OpenFile.stack.close()
        _OpenFile.stream = _OpenFile.stack.enter_context(open_audio(request.path, request.sample_rate_hz))
        return _OpenFile.stream.source_rate_hz, _OpenFile.stream.source_num_channels
    pieces, num_samples = [np.zeros(0, np.float32)], 0
    for piece in _OpenFile.stream.blocks:
        pieces.append(piece)
        num_samples += len(piece)
        if num_samples >= _NUM_SAMPLES_PER_REPLY:
            return np.concatenate(pieces), None
    return np.concatenate(pieces), _OpenFile.stream.report
