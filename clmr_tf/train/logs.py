"""metrics.jsonl and TensorBoard: scalars, sounds, spectrograms and embeddings of a run."""

import contextlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto import event_pb2
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.plugins import projector
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from clmr_tf.config.train import TrainConfig
from clmr_tf.data.corpus import Corpus
from clmr_tf.data.crops import crop_reader, window_starts
from clmr_tf.errors import ClmrError
from clmr_tf.files import sync, write_atomically
from clmr_tf.models.clip_encoder import ClipEncoder
from clmr_tf.train.step import TrainingModel

logger = logging.getLogger(__name__)

_PROJECTOR_TENSORS = "embeddings.tsv"
_PROJECTOR_METADATA = "embeddings_metadata.tsv"


class RunLog:
    """Writes the curves, sounds and embeddings of a run.

    When a run resumes, what was logged after its checkpoint is removed: metrics.jsonl is truncated, and TensorBoard's
    files get the restart mark of their format. So no curve ever has two values for a step.

    Args:
        metrics_path: The metrics.jsonl of the run, one JSON object per logged step.
        tensorboard_folder: Folder of the event files.
        last_kept_step: Last step whose logs from earlier starts are kept; -1 for none, not even what is logged before
            the first step.
        explained: Returns a context manager that turns write errors into clearer ones, given what could not be done.

    Attributes:
        earlier_rows: The rows of metrics.jsonl that are kept.
    """

    def __init__(
        self,
        metrics_path: Path,
        tensorboard_folder: Path,
        last_kept_step: int,
        *,
        explained: Callable[[str], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._metrics_path = metrics_path
        self._folder = tensorboard_folder
        self._explained = explained
        tensorboard_folder.mkdir(parents=True, exist_ok=True)
        self.earlier_rows = _cut_after(metrics_path, last_kept_step)
        _mark_start(tensorboard_folder, last_kept_step)
        self._writer = tf.summary.create_file_writer(str(tensorboard_folder))

    def scalars(
        self, step: int, values: Mapping[str, float], speed: Mapping[str, float] | None = None, *, durable: bool = False
    ) -> None:
        """Adds a point to each curve and a row to metrics.jsonl, see `row_of`.

        Args:
            step: Steps done.
            values: Metrics by name.
            speed: Curves that differ whenever a run is repeated, and that are not in metrics.jsonl.
            durable: Sync everything to the disk, the curves before the row: a run that finds the row of its checkpoint
                does not write its curves again.
        """
        self._show_curves(step, {f"training/{name}": value for name, value in (speed or {}).items()})
        self._show_curves(step, {name if "/" in name else f"training/{name}": value for name, value in values.items()})

        def append() -> None:
            with self._metrics_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row_of(step, values)) + "\n")

        if durable:
            self._with_events(lambda writer: writer.flush())
        self._attempt(append)
        if durable:
            self._attempt(lambda: sync(self._metrics_path))

    def text(self, step: int, name: str, markdown: str) -> None:
        """Shows a text, such as the configuration."""
        self._show(step, lambda: tf.summary.text(name, markdown))

    def audio(self, step: int, name: str, waveforms: np.ndarray, sample_rate_hz: int) -> None:
        """Adds waveforms to play: float32 [examples, samples] in [-1, 1]."""
        clips = waveforms[..., None]
        self._show(step, lambda: tf.summary.audio(name, clips, sample_rate_hz, max_outputs=len(clips)))

    def embeddings(self, vectors: np.ndarray, metadata: Sequence[Mapping[str, object]]) -> None:
        """Shows vectors, float [n, dimensions], in the projector; `metadata` has the same keys in every row."""
        self._attempt(lambda: _write_embeddings(self._folder, vectors, metadata))

    def flush(self) -> None:
        """Writes everything so far to the disk, where TensorBoard can read it."""
        if self._metrics_path.exists():
            self._attempt(lambda: sync(self._metrics_path))
        self._with_events(lambda writer: writer.flush())

    def close(self) -> None:
        """Closes the event file."""
        self._with_events(lambda writer: writer.close())

    def _show_curves(self, step: int, values: Mapping[str, float]) -> None:
        self._show(step, lambda: [tf.summary.scalar(name, value) for name, value in values.items()])

    def _show(self, step: int, summarise: Callable[[], object]) -> None:
        def add(writer: tf.summary.SummaryWriter) -> None:
            with writer.as_default(step=step):
                summarise()

        self._with_events(add)

    def _with_events(self, use: Callable[[tf.summary.SummaryWriter], None]) -> None:
        self._attempt(lambda: use(self._writer))

    def _attempt(self, write: Callable[[], None]) -> None:
        with self._explained(f"The log of the run could not be written to {self._metrics_path.parent}"):
            write()


def row_of(step: int, values: Mapping[str, float]) -> dict[str, float | None]:
    """The row of a step in metrics.jsonl.

    "validation/loss", the name of a curve in TensorBoard, is "validation_loss" in the row; names without a group belong
    to "training". Values that are not finite are null, since JSON has no NaN and no infinity.
    """
    numbers = {name.replace("/", "_"): value for name, value in values.items()}
    return {"step": step, **{name: value if math.isfinite(value) else None for name, value in numbers.items()}}


def logged_steps(metrics_path: Path) -> set[int]:
    """The steps that have a row in a metrics.jsonl, which need not exist yet."""
    return {int(row["step"]) for _, row in _whole_rows(metrics_path)}


def _cut_after(metrics_path: Path, last_step: int) -> list[dict[str, float | None]]:
    """Removes the rows after a step; returns the others."""
    kept = [(line, row) for line, row in _whole_rows(metrics_path) if row["step"] <= last_step]
    if metrics_path.exists():
        write_atomically(metrics_path, "".join(line + "\n" for line, _ in kept))
    return [row for _, row in kept]


def _whole_rows(metrics_path: Path) -> Iterator[tuple[str, dict[str, float | None]]]:
    """Lines and their rows, without the last one if a kill cut it short.

    Raises:
        ClmrError: If another line is not a row.
    """
    lines = metrics_path.read_text(encoding="utf-8").splitlines() if metrics_path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = dict(json.loads(line))
            _ = row["step"]
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                return
            raise ClmrError(
                f"Line {number} of the {len(lines)} lines of {metrics_path} is damaged; fix or remove it."
            ) from error
        yield line, row


def _mark_start(folder: Path, last_kept_step: int) -> None:
    # For every mark but the first, TensorBoard drops the points from the step of the mark on.
    writer = EventFileWriter(str(folder), filename_suffix=f".start-{os.getpid()}")
    writer.add_event(event_pb2.Event(step=last_kept_step + 1, session_log=SessionLog(status=SessionLog.START)))
    writer.close()


def _write_embeddings(folder: Path, vectors: np.ndarray, metadata: Sequence[Mapping[str, object]]) -> None:
    names = list(metadata[0])
    rows = ["\t".join(names), *("\t".join(_tsv_cell(row[name]) for name in names) for row in metadata)]
    write_atomically(folder / _PROJECTOR_METADATA, "\n".join(rows) + "\n")
    lines = ("\t".join(f"{value:.5g}" for value in vector) for vector in vectors)
    write_atomically(folder / _PROJECTOR_TENSORS, "\n".join(lines) + "\n")
    config = projector.ProjectorConfig()
    config.embeddings.add(
        tensor_name="validation embeddings",
        tensor_path=_PROJECTOR_TENSORS,
        metadata_path=_PROJECTOR_METADATA,
    )
    projector.visualize_embeddings(str(folder), config)


def _tsv_cell(value: object) -> str:
    return " ".join(str(value).split()) or "-"


_MAX_EMBEDDINGS = 2_000
_EMBEDDING_BATCH = 32


def log_views(log: RunLog, model: TrainingModel, dataset: tf.data.Dataset, config: TrainConfig) -> None:
    """Adds the first clips of the run and their views to TensorBoard."""
    count = config.num_audio_examples
    if count == 0:
        return
    batch = next(iter(dataset))
    clips = batch["clips"][:count]
    views = tf.reshape(model.make_views(clips, batch["seeds"][:count]), clips.shape)
    for number, name in enumerate(("first", "second")[: clips.shape[1]]):
        log.audio(0, f"{name}_crop/original", clips[:, number].numpy(), config.sample_rate_hz)
        log.audio(0, f"{name}_crop/view", views[:, number].numpy(), config.sample_rate_hz)


def log_embeddings(
    log: RunLog, encoder: ClipEncoder, corpus: Corpus, after_batch: Callable[[], None] = lambda: None
) -> None:
    """Shows embeddings of the validation split in the projector, with song, tags and time of each window.

    Every item has the same number of windows, evenly spaced over its length, at most 2,000 in all. If there are more
    than 2,000 items, as many of them, evenly spaced over the split, have one window each. Without a validation split,
    nothing is shown. `after_batch` is called after each batch of windows.
    """
    in_corpus = corpus.rows_of("valid")
    if not len(in_corpus):
        return
    if len(in_corpus) > _MAX_EMBEDDINGS:
        in_corpus = in_corpus[np.linspace(0, len(in_corpus) - 1, _MAX_EMBEDDINGS).astype(int)]
    items = corpus.read_items(in_corpus)
    clip_num_samples, rate = encoder.clip_num_samples, encoder.sample_rate_hz
    windows = []
    for row, item in enumerate(items):
        starts = window_starts(item.num_samples, clip_num_samples)
        kept = np.linspace(0, len(starts) - 1, min(len(starts), max(1, _MAX_EMBEDDINGS // len(items))))
        windows += [(row, start) for start in starts[np.unique(kept.astype(int))]]
    read_crop = crop_reader(corpus, in_corpus, clip_num_samples)
    rows, starts = (np.array(column, np.int64) for column in zip(*windows, strict=True))
    clips = tf.data.Dataset.from_tensor_slices((rows, starts)).map(read_crop).batch(_EMBEDDING_BATCH)
    vectors = []
    for batch in clips:
        vectors.append(tf.cast(encoder(batch, training=False), tf.float32).numpy())
        after_batch()
    metadata = [
        {
            "item": items[row].id,
            "song": items[row].song_id,
            "tags": ", ".join(items[row].tags),
            "seconds": round(start / rate, 2),
        }
        for row, start in windows
    ]
    log.embeddings(np.concatenate(vectors), metadata)
