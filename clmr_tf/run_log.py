"""What a run tells: TensorBoard events and metrics.jsonl."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto import event_pb2
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.plugins import projector
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from clmr_tf.files import write_atomically

_PROJECTOR_TENSORS = "embeddings.tsv"
_PROJECTOR_METADATA = "embeddings_metadata.tsv"


class RunLog:
    """Writes the curves, sounds and embeddings of a run.

    A run that resumes at a step takes back what was logged after it, in metrics.jsonl by cutting the file, in
    TensorBoard by the restart mark of its format, so that no curve ever has two values for a step.

    Args:
        metrics_path: The metrics.jsonl of the run, one JSON object per logged step.
        tensorboard_folder: Folder of the event files.
        first_step: Steps done before this start.
    """

    def __init__(self, metrics_path: Path, tensorboard_folder: Path, first_step: int) -> None:
        self._metrics_path = metrics_path
        self._folder = tensorboard_folder
        tensorboard_folder.mkdir(parents=True, exist_ok=True)
        _cut_after(metrics_path, first_step)
        _mark_start(tensorboard_folder, first_step)
        self._writer = tf.summary.create_file_writer(str(tensorboard_folder))

    def scalars(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """Adds a point to each curve and a row to metrics.jsonl, which it returns.

        A name such as "validation/loss" is a curve of that group and "validation_loss" in the row; one without a
        group is of "training". What is not finite is null in the row.
        """
        with self._writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name if "/" in name else f"training/{name}", value)
        numbers = {name.replace("/", "_"): value for name, value in values.items()}
        # JSON has no NaN and no infinity.
        row = {"step": step, **{name: value if math.isfinite(value) else None for name, value in numbers.items()}}
        with self._metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return row

    def speed(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to curves that are another one each time the same run is made, and so in no file."""
        with self._writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(f"training/{name}", value)

    def text(self, step: int, name: str, markdown: str) -> None:
        """Shows a text, such as the configuration."""
        with self._writer.as_default(step=step):
            tf.summary.text(name, markdown)

    def audio(self, step: int, name: str, waveforms: np.ndarray, sample_rate_hz: int) -> None:
        """Makes waveforms heard: float32 [examples, samples] in [-1, 1]."""
        with self._writer.as_default(step=step):
            tf.summary.audio(name, waveforms[..., None], sample_rate_hz, max_outputs=len(waveforms))

    def embeddings(self, vectors: np.ndarray, metadata: Sequence[Mapping[str, object]]) -> None:
        """Shows vectors, float [n, dimensions], in the projector; `metadata` has the same keys in every row."""
        names = list(metadata[0])
        rows = ["\t".join(names), *("\t".join(_tsv_cell(row[name]) for name in names) for row in metadata)]
        write_atomically(self._folder / _PROJECTOR_METADATA, "\n".join(rows) + "\n")
        lines = ("\t".join(f"{value:.5g}" for value in vector) for vector in vectors)
        write_atomically(self._folder / _PROJECTOR_TENSORS, "\n".join(lines) + "\n")
        config = projector.ProjectorConfig()
        config.embeddings.add(
            tensor_name="validation embeddings",
            tensor_path=_PROJECTOR_TENSORS,
            metadata_path=_PROJECTOR_METADATA,
        )
        projector.visualize_embeddings(str(self._folder), config)

    def flush(self) -> None:
        """Makes everything logged so far visible to TensorBoard."""
        self._writer.flush()

    def close(self) -> None:
        """Writes what is left and closes the event file."""
        self._writer.close()


def logged_row(metrics_path: Path, step: int) -> dict[str, float]:
    """The row of a step in metrics.jsonl, empty if it has none."""
    rows = (row for _, row in _whole_rows(metrics_path))
    return next((row for row in rows if row["step"] == step), {})


def _cut_after(metrics_path: Path, last_step: int) -> None:
    if metrics_path.exists():
        kept = [line + "\n" for line, row in _whole_rows(metrics_path) if row["step"] <= last_step]
        write_atomically(metrics_path, "".join(kept))


def _whole_rows(metrics_path: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Lines and what they hold, but for one that a kill cut short; it is the last."""
    for line in metrics_path.read_text(encoding="utf-8").splitlines() if metrics_path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            return
        yield line, row


def _mark_start(folder: Path, first_step: int) -> None:
    # TensorBoard drops the points from such a mark's step on, for every mark but the first it sees.
    writer = EventFileWriter(str(folder), filename_suffix=f".start-{os.getpid()}")
    writer.add_event(event_pb2.Event(step=first_step + 1, session_log=SessionLog(status=SessionLog.START)))
    writer.close()


def _tsv_cell(value: object) -> str:
    return " ".join(str(value).split()) or "-"
