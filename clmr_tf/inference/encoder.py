"""The API for trained encoders: from audio to embeddings and tags."""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soxr

from clmr_tf.audio.decoding import SILENCE_PEAK, open_audio
from clmr_tf.audio.downmix import mixed_to_mono
from clmr_tf.audio.windows import window_starts
from clmr_tf.config.command_line import INCLUDED_MODEL
from clmr_tf.errors import UsageError, install_extra
from clmr_tf.export.model_folder import (
    MANIFEST_FILE,
    WEIGHTS_FILE,
    gives_tags,
    is_same_model,
    read_head,
    read_manifest,
)
from clmr_tf.export.runtime_formats import FORMATS, version_of
from clmr_tf.hardware import has_nvidia_gpu
from clmr_tf.models import EMBEDDING_DIM
from clmr_tf.models.heads import Head, probabilities
from clmr_tf.models.taught_tags import file_of_table, read_taught_tags

# More channels mean that the axes are swapped.
_MAX_CHANNELS = 64


@dataclasses.dataclass(frozen=True)
class Embedding:
    """Embeddings of the windows of one recording.

    Attributes:
        times_seconds: Start of each window, float64 [n].
        vectors: float32 [n, 512].
        is_padded: Whether the recording is shorter than a window and was padded with zeros.
        is_silent: Whether its peak is below -80 dB, so that its embedding is meaningless.
        lost_seconds: Estimated length of what could not be decoded.
    """

    times_seconds: np.ndarray
    vectors: np.ndarray
    is_padded: bool = False
    is_silent: bool = False
    lost_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Tagger:
    """Computes tags from embeddings.

    Attributes:
        tag_names: Names of the columns.
        probabilities: Maps float32 [n, 512] to [n, tags] in [0, 1].
    """

    tag_names: tuple[str, ...]
    probabilities: Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Tagging:
    """Tags of the windows of one recording.

    Attributes:
        times_seconds: Start of each window, float64 [n].
        tag_names: Names of the columns.
        probabilities: float32 [n, tags].
        is_silent: See `Embedding`.
        lost_seconds: See `Embedding`.
    """

    times_seconds: np.ndarray
    tag_names: tuple[str, ...]
    probabilities: np.ndarray
    is_silent: bool = False
    lost_seconds: float = 0.0

    def top(self, count: int) -> list[tuple[str, float]]:
        """The most likely tags of the recording with their mean probabilities, most likely first."""
        means = self.probabilities.mean(axis=0, dtype=np.float64)
        return [(self.tag_names[column], float(means[column])) for column in np.argsort(-means, kind="stable")[:count]]


class Encoder:
    """Computes embeddings, and tags if the model has them; the same in every runtime.

    Args:
        encode: From float32 [batch, clip_num_samples] to float32 [batch, 512].
        clip_num_samples: Length of a window.
        sample_rate_hz: Sample rate of the model.
        model_hash: Computes the hash of the model.
        runtime: What runs the model, one of `RUNTIMES`.
        batch_size: Windows per call of the model.
        tagger: From embeddings to tags, if the model has tags.
    """

    def __init__(
        self,
        encode: Callable[[np.ndarray], np.ndarray],
        clip_num_samples: int,
        sample_rate_hz: int,
        model_hash: Callable[[], str],
        *,
        runtime: str,
        batch_size: int = 32,
        tagger: Tagger | None = None,
    ) -> None:
        self._encode = encode
        self._model_hash = model_hash
        self.clip_num_samples = clip_num_samples
        self.sample_rate_hz = sample_rate_hz
        self.runtime = runtime
        self.tagger = tagger
        self._batch_size = batch_size

    @functools.cached_property
    def model_hash(self) -> str:
        """SHA-256 of the weights, the length of a window and the sample rate; with 8-bit integers, "-int8" follows.

        Embeddings with equal hashes can be compared, whatever computed them.

        Raises:
            UsageError: If the model folder does not record it.
        """
        return self._model_hash()

    @property
    def embedding_dim(self) -> int:
        """Length of an embedding."""
        return EMBEDDING_DIM

    def encode_clips(self, audio: np.ndarray, batch_size: int | None = None) -> np.ndarray:
        """Encodes clips: float [n, clip_num_samples] in [-1, 1] -> float32 [n, 512].

        Args:
            audio: The clips.
            batch_size: Clips per call of the model. Default: that of the encoder.

        Raises:
            UsageError: If the shape is wrong or samples are not finite.
        """
        audio = np.asarray(audio, np.float32)
        if audio.ndim != 2 or audio.shape[1] != self.clip_num_samples:
            raise UsageError(
                f"encode_clips takes audio of shape [n, {self.clip_num_samples}]; received {list(audio.shape)}."
            )
        if not np.isfinite(audio).all():
            raise UsageError(f"Audio must be finite; {np.sum(~np.isfinite(audio))} of the samples are not.")
        size = batch_size or self._batch_size
        batches = (audio[row : row + size] for row in range(0, len(audio), size))
        vectors = [self._encode(batch) for batch in batches]
        return np.concatenate(vectors) if vectors else np.zeros((0, EMBEDDING_DIM), np.float32)

    def embed(
        self,
        recording: str | Path | np.ndarray,
        sample_rate: int | None = None,
        hop_seconds: float | None = None,
    ) -> Embedding:
        """Embeds the windows of a recording; one that is shorter than a window is padded with zeros.

        Args:
            recording: An audio file, or a waveform [samples] or [samples, channels] in [-1, 1], which is mixed to mono
                by `clmr_tf.audio.downmix`.
            sample_rate: Sample rate of a waveform, in Hz. Default: that of the model.
            hop_seconds: Time between the starts of two windows. Default: the length of a window.

        Raises:
            UsageError: If the recording has no samples, or an argument is invalid.
        """
        if isinstance(recording, str | Path):
            with open_audio(Path(recording).expanduser(), self.sample_rate_hz) as stream:
                samples = np.concatenate([np.zeros(0, np.float32), *stream.blocks])
            is_silent, lost_seconds = stream.report.is_silent, stream.report.lost_seconds
        else:
            samples = self._mono_at_own_rate(np.asarray(recording), sample_rate)
            is_silent, lost_seconds = bool(np.abs(samples).max(initial=0.0) <= SILENCE_PEAK), 0.0
        hop_samples = self.hop_num_samples(hop_seconds)
        if len(samples) == 0:
            raise UsageError("The recording has no samples; give one with music.")
        num_missing = max(self.clip_num_samples - len(samples), 0)
        samples = np.pad(samples, (0, num_missing))
        starts = window_starts(len(samples), self.clip_num_samples, hop_samples)
        vectors = self.encode_windows(samples, starts)
        return Embedding(starts / self.sample_rate_hz, vectors, num_missing > 0, is_silent, lost_seconds)

    def tag(
        self,
        recording: str | Path | np.ndarray,
        sample_rate: int | None = None,
        hop_seconds: float | None = None,
    ) -> Tagging:
        """Tags the windows of a recording; arguments and errors as for `embed`.

        Raises:
            UsageError: Also if the model has no tags.
        """
        return self.tagging_of(self.embed(recording, sample_rate, hop_seconds))

    def require_tags(self) -> None:
        """Raises UsageError if the model has no tags."""
        if self.tagger is None:
            raise UsageError(
                "The model has no tags; export it with `--head evaluation-....json` of a probe, or use a model trained "
                "with labels."
            )

    def add_taught_tags(self, table: Path) -> None:
        """Adds the tags that were taught for a table of embeddings to those of the model.

        Args:
            table: The table, whose tags are beside it, or the file of its tags.

        Raises:
            UsageError: If they cannot be read, were taught with another model, or the model has a tag of the same name.
        """
        file = file_of_table(table)
        taught = read_taught_tags(file)
        if not is_same_model(taught.model_hash, self.model_hash):
            raise UsageError(f"{file} was taught with another model; give --model the one that {table} was made with.")
        if not taught.names:
            raise UsageError(f"{file} has no tag with a song that it fits; mark some with `python -m clmr_tf.teach`.")
        own, added = self.tagger, tagger_of(taught.head, taught.names, single_label=False)
        if own is None:
            self.tagger = added
            return
        if common := set(own.tag_names) & set(added.tag_names):
            raise UsageError(f"{file} and the model both have the tag {min(common)!r}; teach it under another name.")
        self.tagger = Tagger(
            (*own.tag_names, *added.tag_names),
            lambda vectors: np.concatenate([own.probabilities(vectors), added.probabilities(vectors)], axis=1),
        )

    def tagging_of(self, embedding: Embedding) -> Tagging:
        """Computes the tags of embeddings.

        Raises:
            UsageError: If the model has no tags.
        """
        self.require_tags()
        probabilities = self.tagger.probabilities(embedding.vectors)
        return Tagging(
            embedding.times_seconds,
            self.tagger.tag_names,
            probabilities,
            embedding.is_silent,
            embedding.lost_seconds,
        )

    def hop_num_samples(self, hop_seconds: float | None) -> int:
        """The hop in samples; None means the length of a window.

        Raises:
            UsageError: If it is shorter than a sample.
        """
        if hop_seconds is None:
            return self.clip_num_samples
        if not 1 <= hop_seconds * self.sample_rate_hz < 2**62:
            raise UsageError(f"The hop must be at least one sample, and finite; received {hop_seconds} seconds.")
        return round(hop_seconds * self.sample_rate_hz)

    def encode_windows(self, samples: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Encodes the windows of a waveform [samples] that start at `starts`: float32 [n, 512]."""
        windows = np.lib.stride_tricks.sliding_window_view(samples, self.clip_num_samples)
        # In batches, since overlapping windows can take many times the memory of the recording.
        rows = range(0, len(starts), self._batch_size)
        vectors = [self.encode_clips(windows[starts[row : row + self._batch_size]]) for row in rows]
        return np.concatenate(vectors) if vectors else np.zeros((0, EMBEDDING_DIM), np.float32)

    def _mono_at_own_rate(self, waveform: np.ndarray, sample_rate: int | None) -> np.ndarray:
        is_shape = waveform.ndim == 1 or (waveform.ndim == 2 and 1 <= waveform.shape[1] <= _MAX_CHANNELS)
        if not np.issubdtype(waveform.dtype, np.floating) or not is_shape:
            raise UsageError(
                f"A waveform must be float, [samples] or [samples, channels] of 1 to {_MAX_CHANNELS} channels, in "
                f"[-1, 1]; received {waveform.dtype} {list(waveform.shape)}."
            )
        if not np.isfinite(waveform).all():
            raise UsageError(f"A waveform must be finite; {np.sum(~np.isfinite(waveform))} of its samples are not.")
        if sample_rate is not None and sample_rate <= 0:
            raise UsageError(f"sample_rate must be positive; received {sample_rate}.")
        waveform = waveform.astype(np.float32)
        mono = mixed_to_mono(waveform.T) if waveform.ndim == 2 else waveform
        if sample_rate in (None, self.sample_rate_hz):
            return mono
        return soxr.resample(mono, sample_rate, self.sample_rate_hz, "VHQ")


RUNTIMES = {"tensorflow": None, "litert": "fp32", "litert-int8": "int8", "onnx": "onnx"}
"""The runtimes by name, with the kind of file that they need (`clmr_tf.export.runtime_formats`)."""

# The fastest first; docs/runtimes.md has the figures.
_EXACT_RUNTIMES = ("onnx", "litert", "tensorflow")


def load_encoder(
    folder: str | Path | None = None, runtime: str = "auto", *, num_threads: int | None = None, check: bool = False
) -> Encoder:
    """Loads the encoder of a model folder, or of the newest checkpoint of a run folder, with its head if it has one.

    Weights and head of a model folder are checked against its golden numbers in every runtime.

    Args:
        folder: Written by `python -m clmr_tf.export` or `python -m clmr_tf.train`. Default: the included model.
        runtime: One of `RUNTIMES`, or "auto": the fastest of those that compute in float32, are installed, and have
            what they need in the folder. A run folder needs TensorFlow. "litert-int8" is not exact, and
            faster on processors with VNNI instructions.
        num_threads: Threads of the runtime; in TensorFlow, only before its first use in the process. Default: one per
            core.
        check: Also check SavedModel, weights and projector of a model folder, which needs TensorFlow.

    Raises:
        UsageError: If the folder is neither or cannot be read, if there is no such runtime, it is not installed, or
            the folder does not have what it needs.
        ClmrError: If outputs differ from the golden numbers.
    """
    folder = INCLUDED_MODEL if folder is None else Path(folder).expanduser()
    if runtime not in ("auto", *RUNTIMES):
        raise UsageError(f"There is no runtime {runtime!r}; use auto, {', '.join(RUNTIMES)}.")
    is_exported = (folder / MANIFEST_FILE).is_file()
    if is_exported and check:
        _require_tensorflow(f"A check of the SavedModel in {folder}")
        from clmr_tf.export.keras_model import check_golden

        check_golden(folder)
    if is_exported and runtime == "auto":
        runtime = fastest_runtime(folder)
    if runtime in ("auto", "tensorflow"):
        _require_tensorflow("The runtime tensorflow" if is_exported else f"{folder} is not a model folder; a run")
        from clmr_tf.inference.tensorflow_encoder import load_tensorflow_encoder

        return load_tensorflow_encoder(folder, num_threads)
    from clmr_tf.inference.exported_encoder import load_exported_encoder

    return load_exported_encoder(folder, runtime, num_threads)


def fastest_runtime(folder: Path) -> str:
    """The runtime that "auto" takes for a model folder; UsageError if there is none."""
    manifest = read_manifest(folder)

    def is_usable(runtime: str) -> bool:
        if runtime == "tensorflow":
            return (folder / WEIGHTS_FILE).is_file() and _has_tensorflow()
        wanted = FORMATS[RUNTIMES[runtime]]
        is_described = wanted.file in manifest.get("runtimes", {})
        return is_described and (folder / wanted.file).is_file() and version_of(wanted.runtime) is not None

    # Only TensorFlow uses a GPU here.
    by_speed = ("tensorflow", *_EXACT_RUNTIMES) if has_nvidia_gpu() else _EXACT_RUNTIMES
    fastest = next(filter(is_usable, by_speed), None)
    if fastest is None:
        raise UsageError(
            f"{folder} has no file for a runtime that is installed here; add one with `python -m clmr_tf.export "
            f"--model {folder} --tflite fp32` where TensorFlow is installed."
        )
    return fastest


def _has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def _require_tensorflow(what: str) -> None:
    if not _has_tensorflow():
        raise UsageError(f"{what} needs TensorFlow, which is not installed; {install_extra('train')}.")


def tagger_of(head: Head, tag_names: Sequence[str], single_label: bool) -> Tagger:
    """The tagger of a head."""

    def probabilities_of(vectors: np.ndarray) -> np.ndarray:
        return probabilities(head.logits(vectors).astype(np.float64), single_label).astype(np.float32)

    return Tagger(tuple(tag_names), probabilities_of)


def tagger_of_model(folder: Path) -> Tagger | None:
    """The tagger of a model folder; None if the model has no tags.

    Raises:
        UsageError: If manifest or head cannot be read.
    """
    if not gives_tags(folder):
        return None
    manifest = read_manifest(folder)
    return tagger_of(read_head(folder), manifest["tag_names"], manifest["single_label"])
