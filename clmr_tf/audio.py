"""Training straight from compressed files: a crop is decoded, mixed to mono and resampled inside the graph.

tensorflow-io 0.37.1 seeks and decodes mp3, Ogg Vorbis, FLAC and WAV. Compared with libsndfile on whole files it
is equal to 1e-6 wherever a crop begins: for mp3 of constant and variable bit rate, with and without LAME's
gapless header and down to the lowest bit rates, Ogg Vorbis, FLAC of 8 to 24 bits, WAV of 8, 16 and 24 bits and
32-bit float. What it cannot read or reads wrongly (Opus, AAC, WAV of 32-bit integers, files that end early) is
found by `pipelines.direct_check` when a corpus is prepared, and left out.

Its decoders are compiled without optimisation, which is where the time goes: `benchmarks.direct_reader`.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

import tensorflow as tf

from clmr_tf.corpus import Corpus, Item
from clmr_tf.errors import UsageError
from clmr_tf.resampling import plan_block, resample_block

# A reader of tensorflow-io belongs to its node in the graph, not to the call: two calls of one function at the
# same time (Dataset.map with num_parallel_calls) read each other's files or crash the process
# (https://github.com/tensorflow/io/issues/1764). So there are several named readers, each with a lock.
_NUM_READERS = min(64, max(8, 4 * (os.cpu_count() or 1)))

# How the decoders deliver samples: offset and scale that bring each type to [-1, 1).
_SAMPLE_FORMATS = (
    (tf.float32, 0.0, 1.0),
    (tf.int16, 0.0, 2.0**-15),
    (tf.int32, 0.0, 2.0**-31),
    (tf.uint8, -128.0, 2.0**-7),
)


def direct_crop_reader(
    corpus: Corpus, items: Sequence[Item], clip_num_samples: int
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Makes the graph function that reads a crop of one of `items` from its compressed file.

    Args:
        corpus: A corpus with storage "direct".
        items: What the rows stand for.
        clip_num_samples: Length of a crop at the corpus' rate.

    Returns:
        A function of an item's row in `items` and an offset in samples at the corpus' rate (int64 scalars)
        that gives float32 [clip_num_samples] in [-1, 1]. It may be called from parallel maps.

    Raises:
        UsageError: If tensorflow-io cannot be loaded, or a file of the corpus is gone or has another size.
    """
    require_tensorflow_io()
    changed = [item.file for item in items if _num_bytes(item.file) != item.source_num_bytes]
    if changed:
        raise UsageError(
            f"{len(changed)} of {len(items)} files of the corpus {corpus.manifest.name} are gone or have changed, the "
            f"first is {changed[0]!r}; bring them back as they were or prepare the corpus again."
        )
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

    The crop equals the one of the prepared corpus, which decodes the whole file with libsndfile, averages the
    channels and resamples with soxr: same samples where no resampling is needed, otherwise within 1e-3.

    Args:
        path: File to read, string scalar.
        offset_samples: First sample of the crop at `sample_rate_hz`, int64 scalar, not negative.
        num_samples: Length of the crop at `sample_rate_hz`. Beyond the end of the file there are zeros.
        sample_rate_hz: Rate of the crop; the file may have any rate from 1000 Hz.

    Returns:
        float32 [num_samples] in [-1, 1].

    Raises:
        UsageError: If tensorflow-io cannot be loaded.
        tf.errors.OpError: When it runs, if the file is missing or cannot be decoded. Some damaged FLAC files
            make tensorflow-io loop for ever, so only files that were checked should get here.
    """
    decoders = require_tensorflow_io()
    offset_samples = tf.convert_to_tensor(offset_samples, tf.int64)
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
        num_before = start - block.first_sample
        num_after = block.num_samples - num_before - tf.size(mono, tf.int64)
        mono = tf.pad(mono, [[num_before, num_after]])
    return tf.clip_by_value(resample_block(mono, block, num_samples), -1.0, 1.0)


def _mono_samples(read: Callable[..., tf.Tensor], data_type: tf.Tensor) -> tf.Tensor:
    # The type of what a reader delivers is an attribute of the operation, so every type has a branch.
    def branch(dtype: tf.DType, offset: float, scale: float) -> tf.Tensor:
        samples = tf.cast(read(dtype=dtype), tf.float32)
        num_channels = tf.shape(samples)[1]
        # A product with a vector of equal weights takes a third of the time of tf.reduce_mean.
        weights = tf.fill([num_channels], scale / tf.cast(num_channels, tf.float32))
        return tf.linalg.matvec(samples, weights) + offset * scale

    codes = tf.constant([dtype.as_datatype_enum for dtype, _, _ in _SAMPLE_FORMATS], tf.int64)
    return tf.switch_case(
        tf.argmax(tf.equal(codes, data_type), output_type=tf.int32),
        [partial(branch, *sample_format) for sample_format in _SAMPLE_FORMATS],
    )


def _for_each_reader(make: Callable[..., tf.Tensor]) -> list[Callable[[], tf.Tensor]]:
    return [partial(make, shared_name=f"clmr_tf_audio_reader_{number}") for number in range(_NUM_READERS)]


def require_tensorflow_io() -> ModuleType:
    """Loads tensorflow-io, which nothing else does.

    Returns:
        Its operations, since its public classes do not let a reader be named.

    Raises:
        UsageError: If it is not installed, or does not fit the installed TensorFlow.
    """
    try:
        from tensorflow_io.python.ops import core_ops

        core_ops.io_audio_readable_init  # noqa: B018  (the library is loaded by the first look at a name)
    except (ImportError, NotImplementedError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"Reading compressed files directly needs tensorflow-io, which cannot be loaded beside TensorFlow "
            f"{tf.__version__} ({reason}); install tensorflow-io 0.37.1 with TensorFlow 2.17, or use --reader "
            f"prepared."
        ) from error
    return core_ops
