"""Training directly from compressed files: a crop is decoded, mixed to mono and resampled inside tf.data.

tensorflow-io 0.37.1 seeks and decodes MP3, Ogg Vorbis, FLAC and WAV inside the graph. A crop equals that part of the
decoded whole file to 1e-6 wherever it starts: for MP3 of constant and variable bit rate, with and without LAME's
gapless header and down to the lowest bit rates, Ogg Vorbis, FLAC of 8 to 24 bits, WAV of 8, 16 and 24 bits and 32-bit
float.
Files that it cannot read or reads wrongly (Opus, AAC, WAV of 32-bit integers, truncated files) are detected by
`pipelines.preparation.direct_check` when a corpus is prepared, and skipped. Its decoders are compiled without
optimisation and take most of the time: `benchmarks.direct_reader`.

Where tensorflow-io cannot be loaded (Python 3.13, TensorFlow above 2.17), FFmpeg decodes the same part of the file in a
`tf.numpy_function`: the same crops to 1e-6.
"""

import functools
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import tensorflow as tf

from clmr_tf.audio.decoding import decode_range, source_rate_hz
from clmr_tf.audio.resampling import SourceBlock, mono_weights_of, plan_block, resample_block
from clmr_tf.data.corpus import Corpus
from clmr_tf.errors import UsageError

# A reader of tensorflow-io belongs to its node in the graph, not to the call: two simultaneous calls of a function
# (Dataset.map with num_parallel_calls) read each other's files or crash the process
# (https://github.com/tensorflow/io/issues/1764). So there are several named readers, each with a lock.
_NUM_READERS = min(64, max(8, 4 * (os.cpu_count() or 1)))

# Sample types of the decoders, each with the offset and scale that map it to [-1, 1).
_SAMPLE_FORMATS = (
    (tf.float32, 0.0, 1.0),
    (tf.int16, 0.0, 2.0**-15),
    (tf.int32, 0.0, 2.0**-31),
    (tf.uint8, -128.0, 2.0**-7),
)


def direct_crop_reader(
    corpus: Corpus, rows: np.ndarray, clip_num_samples: int
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Makes a graph function that reads a crop of one of the items in `rows` from its compressed file.

    Args:
        corpus: A corpus with storage "direct".
        rows: Rows of the items in the corpus.
        clip_num_samples: Length of a crop at the corpus' rate.

    Returns:
        A function of an item's place in `rows` and an offset in samples at the corpus' rate (int64 scalars) that
        returns float32 [clip_num_samples] in [-1, 1]. It may be called from parallel maps.

    Raises:
        UsageError: If a file of the corpus is missing or has another size.
    """
    items = corpus.read_items(rows)
    changed = [item.file for item in items if _num_bytes(item.file) != item.source_num_bytes]
    if changed:
        raise UsageError(
            f"{len(changed)} of {len(items)} files of the corpus {corpus.manifest.name} are missing or have changed, "
            f"such as {changed[0]!r}; restore them or prepare the corpus again."
        )
    with tf.init_scope():
        paths = tf.constant([os.fsencode(item.file) for item in items])

    def read_item_crop(item: tf.Tensor, offset_samples: tf.Tensor) -> tf.Tensor:
        return read_crop(
            paths[item],
            offset_samples,
            num_samples=clip_num_samples,
            sample_rate_hz=corpus.manifest.sample_rate_hz,
        )

    return read_item_crop


def _num_bytes(path: str) -> int | None:
    try:
        return Path(path).stat().st_size
    except OSError:
        return None


def read_crop(path: tf.Tensor, offset_samples: tf.Tensor, *, num_samples: int, sample_rate_hz: int) -> tf.Tensor:
    """Reads a crop of a compressed file, eagerly or inside any graph.

    The crop equals that of a prepared corpus, where the whole file is decoded, mixed to mono and resampled with soxr:
    the same samples if no resampling is needed, otherwise within 1e-3.

    Args:
        path: File to read, string scalar.
        offset_samples: First sample of the crop at `sample_rate_hz`, int64 scalar, not negative.
        num_samples: Length of the crop at `sample_rate_hz`, zero-padded beyond the end of the file.
        sample_rate_hz: Sample rate of the crop; the file may have any rate from 1000 Hz.

    Returns:
        float32 [num_samples] in [-1, 1].

    Raises:
        tf.errors.OpError: At run time, if the file is missing or cannot be decoded (eagerly and without tensorflow-io,
            UnreadableAudioError). Some damaged FLAC files make tensorflow-io loop forever, so use this function only
            for checked files.
    """
    offset_samples = tf.convert_to_tensor(offset_samples, tf.int64)
    decoders = tensorflow_io_decoders()
    read_source = _read_with_ffmpeg if decoders is None else partial(_read_with_tensorflow_io, decoders)
    mono, block = read_source(path, offset_samples, num_samples, sample_rate_hz)
    return tf.clip_by_value(resample_block(mono, block, num_samples), -1.0, 1.0)


def _read_with_ffmpeg(
    path: tf.Tensor, offset_samples: tf.Tensor, num_samples: int, sample_rate_hz: int
) -> tuple[tf.Tensor, SourceBlock]:
    # In a graph, the name is bytes; in eager mode, it is a zero-dimensional array.
    def path_of(name: bytes | np.ndarray) -> Path:
        return Path(os.fsdecode(np.asarray(name, object).item()))

    def rate_of(name: bytes | np.ndarray) -> np.int64:
        return np.int64(source_rate_hz(path_of(name)))

    def samples_of(name: bytes | np.ndarray, start: np.int64, stop: np.int64) -> np.ndarray:
        return decode_range(path_of(name), int(start), int(stop - start))

    rate_hz = tf.ensure_shape(tf.numpy_function(rate_of, [path], tf.int64), [])
    block = plan_block(offset_samples, num_samples, rate_hz, sample_rate_hz)
    start = tf.maximum(block.first_sample, 0)
    stop = block.first_sample + block.num_samples
    mono = tf.ensure_shape(tf.numpy_function(samples_of, [path, start, stop], tf.float32), [None])
    return _padded(mono, start, block), block


def _padded(mono: tf.Tensor, start: tf.Tensor, block: SourceBlock) -> tf.Tensor:
    num_before = start - block.first_sample
    num_after = block.num_samples - num_before - tf.size(mono, tf.int64)
    return tf.pad(mono, [[num_before, num_after]])


def _read_with_tensorflow_io(
    decoders: ModuleType, path: tf.Tensor, offset_samples: tf.Tensor, num_samples: int, sample_rate_hz: int
) -> tuple[tf.Tensor, SourceBlock]:
    path_hash = tf.strings.to_hash_bucket_fast(path, _NUM_READERS)
    reader_number = tf.cast((path_hash + offset_samples) % _NUM_READERS, tf.int32)
    mutex = tf.switch_case(reader_number, _for_each_reader(tf.raw_ops.MutexV2))
    lock = tf.raw_ops.MutexLock(mutex=mutex)
    with tf.control_dependencies([lock]):
        open_file = partial(decoders.io_audio_readable_init, path)
        reader = tf.switch_case(reader_number, _for_each_reader(open_file))
        _, data_type, source_rate_hz = decoders.io_audio_readable_spec(reader)
        block = plan_block(offset_samples, num_samples, source_rate_hz, sample_rate_hz)
        start = tf.maximum(block.first_sample, 0)
        stop = block.first_sample + block.num_samples
        read = partial(decoders.io_audio_readable_read, reader, start=start, stop=stop)
        mono = _mono_samples(read, data_type)
    with tf.control_dependencies([mono]):
        unlocked = tf.raw_ops.ConsumeMutexLock(mutex_lock=lock)
    with tf.control_dependencies([unlocked]):
        return _padded(mono, start, block), block


def _mono_samples(read: Callable[..., tf.Tensor], data_type: tf.Tensor) -> tf.Tensor:
    # The sample type is an attribute of the op, so every type has its own branch.
    def branch(dtype: tf.DType, offset: float, scale: float) -> tf.Tensor:
        samples = tf.cast(read(dtype=dtype), tf.float32)
        weights = mono_weights_of(tf.shape(samples)[1])
        return tf.linalg.matvec(samples + offset, weights * scale)

    codes = tf.constant([dtype.as_datatype_enum for dtype, _, _ in _SAMPLE_FORMATS], tf.int64)
    return tf.switch_case(
        tf.argmax(tf.equal(codes, data_type), output_type=tf.int32),
        [partial(branch, *sample_format) for sample_format in _SAMPLE_FORMATS],
    )


def _for_each_reader(make: Callable[..., tf.Tensor]) -> list[Callable[[], tf.Tensor]]:
    return [partial(make, shared_name=f"clmr_tf_audio_reader_{number}") for number in range(_NUM_READERS)]


@functools.cache
def tensorflow_io_decoders() -> ModuleType | None:
    """The ops of tensorflow-io, since its public classes cannot name a reader; None if it cannot be loaded.

    Nothing else loads tensorflow-io.
    """
    try:
        from tensorflow_io.python.ops import core_ops

        core_ops.io_audio_readable_init  # noqa: B018 - the first attribute access loads the library
    except (ImportError, NotImplementedError, tf.errors.OpError):
        return None
    return core_ops
