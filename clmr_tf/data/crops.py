"""tf.data datasets of a corpus: pairs of random crops, labelled crops, and the starts of windows."""

import contextlib
import ctypes
import dataclasses
import errno
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from clmr_tf.data.corpus import PCM_DTYPE, PCM_FULL_SCALE, Corpus
from clmr_tf.errors import UsageError

CropReader = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""Takes an item's place among the rows that the reader was made for and an offset in samples (int64 scalars), returns
a crop."""

# Separate streams, folded into the run seed; no two draws share random bits.
_ITEM_STREAM, _OFFSET_STREAM, _VIEW_STREAM, _NEAR_OFFSET_STREAM = 0, 1, 2, 3


@dataclasses.dataclass(frozen=True)
class BatchShard:
    """The part of every batch that one process reads.

    Each of the M micro-batches of a batch is split evenly between the R replicas, so a micro-batch has the same
    examples for any number of replicas.

    Attributes:
        num_replicas: All replicas of the run.
        first_replica: The first replica of this process.
        num_local_replicas: How many replicas it has.
        num_micro_batches: Micro-batches of a batch.
    """

    num_replicas: int = 1
    first_replica: int = 0
    num_local_replicas: int = 1
    num_micro_batches: int = 1


WHOLE_BATCH = BatchShard()


def pair_dataset(
    corpus: Corpus,
    split: str,
    *,
    batch_size: int,
    clip_num_samples: int,
    seed: int,
    first_step: int = 0,
    sampling_unit: str = "song",
    max_distance_samples: int | None = None,
    shard: BatchShard = WHOLE_BATCH,
) -> tf.data.Dataset:
    """Endless batches of two random crops per item.

    An epoch visits every song (or every item, with `sampling_unit` "clip") at most once, in its own order, and drops
    the remainder that does not fill a batch. Both crops of a pair come from the same item and may overlap, as in the
    paper. With "song", one item of each song is drawn in an epoch (the thesis' code concatenates a song's clips
    instead), so two clips of a song are never each other's negatives.

    Args:
        corpus: Where the clips come from; all items must be at least a clip long.
        split: "train", "valid" or "test".
        batch_size: Pairs per batch.
        clip_num_samples: Length of a crop.
        seed: Run seed, 0 to 2^31 - 1.
        first_step: Batches to skip at the start, at no cost.
        sampling_unit: "song" or "clip".
        max_distance_samples: Largest distance between the starts of the two crops; None: anywhere in the item, as in
            the paper.
        shard: What to read of each batch; the batches of its replicas follow each other, with n = batch_size /
            replicas pairs each.

    Returns:
        Dataset of {"clips": float32 [n, 2, clip_num_samples] in [-1, 1], "seeds": int32 [n, 2, 2] (a pair per
        view), "item": int64 [n] (row in `corpus.items_of(split)`)}.

    Raises:
        UsageError: If the split has fewer songs (or items) than a batch.
    """
    count = num_units(corpus, split, sampling_unit)
    if count < 2:
        raise UsageError(
            f"A batch needs at least 2 {sampling_unit}s, and the {split} split of {corpus.manifest.name} has "
            f"{count}; add more music."
        )
    if count < batch_size:
        raise UsageError(
            f"The {split} split of {corpus.manifest.name} has {count} {sampling_unit}s, fewer than one batch "
            f"of {batch_size}; use a --batch-size of at most {count} or more music."
        )
    return crop_dataset(
        corpus,
        split,
        num_crops=2,
        epoch_size=count // batch_size * batch_size,
        batch_size=batch_size,
        clip_num_samples=clip_num_samples,
        seed=seed,
        first_step=first_step,
        sampling_unit=sampling_unit,
        max_distance_samples=max_distance_samples,
        shard=shard,
    )


def crop_dataset(
    corpus: Corpus,
    split: str,
    *,
    num_crops: int,
    epoch_size: int,
    batch_size: int,
    clip_num_samples: int,
    seed: int,
    first_step: int,
    sampling_unit: str,
    max_distance_samples: int | None,
    shard: BatchShard,
) -> tf.data.Dataset:
    """Batches of random crops of items as in `pair_dataset`, with any number of crops per item and without its checks.

    Args:
        num_crops: Crops per item: "clips" [n, num_crops, clip_num_samples] and "seeds" [n, num_crops, 2].
        epoch_size: Examples per epoch, after which a new order begins; at most the number of units.
        max_distance_samples: Largest distance of a crop from the first one of its item; None: anywhere.
        corpus, split, batch_size, clip_num_samples, seed, first_step, sampling_unit, shard: As in `pair_dataset`.
    """
    rows = corpus.rows_of(split)
    first_item_of_unit, items_by_unit = _group(corpus.song_numbers[rows], sampling_unit)
    count = len(first_item_of_unit) - 1
    read_crop = crop_reader(corpus, rows, clip_num_samples)
    # As tensors that the graph captures, not as constants in it, since they may have millions of entries.
    with tf.init_scope():
        first_item_of_unit = tf.constant(first_item_of_unit, tf.int64)
        items_by_unit = tf.constant(items_by_unit, tf.int64)
        num_samples = tf.constant(corpus.num_samples[rows], tf.int64)

    replica_batch_size = batch_size // shard.num_replicas
    part_size = replica_batch_size // shard.num_micro_batches

    @tf.autograph.experimental.do_not_convert
    def example(index: tf.Tensor) -> dict[str, tf.Tensor]:
        position = global_position(index)
        unit = _permute(position % epoch_size, count, seed, position // epoch_size)
        stream = tf.random.experimental.stateless_fold_in(tf.constant([seed, 0], tf.int64), position)

        first, end = first_item_of_unit[unit], first_item_of_unit[unit + 1]
        item = items_by_unit[_uniform([], stream, _ITEM_STREAM, first, end)]
        end_offset = num_samples[item] - clip_num_samples + 1
        offsets = _uniform([num_crops], stream, _OFFSET_STREAM, 0, end_offset)
        if max_distance_samples is not None:
            nearest = tf.maximum(offsets[0] - max_distance_samples, 0)
            farthest = tf.minimum(offsets[0] + max_distance_samples + 1, end_offset)
            near = _uniform([num_crops - 1], stream, _NEAR_OFFSET_STREAM, nearest, farthest)
            offsets = tf.concat([offsets[:1], near], axis=0)
        clips = tf.stack([read_crop(item, offsets[number]) for number in range(num_crops)])
        seeds = tf.random.stateless_uniform(
            [num_crops, 2], _fold(stream, _VIEW_STREAM), minval=None, maxval=None, dtype=tf.int32
        )
        return {"clips": clips, "seeds": seeds, "item": item}

    def global_position(index: tf.Tensor) -> tf.Tensor:
        replica_batch, row = index // replica_batch_size, index % replica_batch_size
        step, replica = replica_batch // shard.num_local_replicas, replica_batch % shard.num_local_replicas
        rank = shard.first_replica + replica
        part, row_of_part = row // part_size, row % part_size
        return step * batch_size + (part * shard.num_replicas + rank) * part_size + row_of_part

    first_index = first_step * replica_batch_size * shard.num_local_replicas
    # Infinite, since otherwise workers would check with each other before every batch whether there is another one.
    indices = tf.data.Dataset.range(first_index, np.iinfo(np.int64).max).repeat()
    examples = indices.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return examples.batch(replica_batch_size, drop_remainder=True).prefetch(2)


def num_units(corpus: Corpus, split: str, sampling_unit: str) -> int:
    """How many songs (or items, with `sampling_unit` "clip") a split has; an epoch sees each at most once."""
    rows = corpus.rows_of(split)
    return len(rows) if sampling_unit == "clip" else int(np.count_nonzero(np.bincount(corpus.song_numbers[rows])))


def crop_reader(corpus: Corpus, rows: np.ndarray, clip_num_samples: int) -> CropReader:
    """Makes the graph function that reads a crop of one of the items in `rows`, float32 [clip_num_samples]."""
    if corpus.manifest.storage == "direct":
        from clmr_tf.data.direct_reader import direct_crop_reader

        return direct_crop_reader(corpus, rows, clip_num_samples)
    return pcm_crop_reader(corpus, rows, clip_num_samples)


def pcm_crop_reader(corpus: Corpus, rows: np.ndarray, clip_num_samples: int) -> CropReader:
    """The reader for prepared PCM: slices memory-mapped files without Python, and copies only the crop."""
    begins = corpus.audio_begins
    file_numbers = np.searchsorted(begins, corpus.offset_samples[rows], side="right") - 1
    with tf.init_scope(), tf.device("CPU:0"):
        files = _mapped_files(corpus)
        file_of_item = tf.constant(file_numbers, tf.int32)
        first_sample = tf.constant(corpus.offset_samples[rows] - begins[file_numbers], tf.int64)

    def read_crop(item: tf.Tensor, offset_samples: tf.Tensor) -> tf.Tensor:
        samples = tf.raw_ops.TensorListGetItem(
            input_handle=files, index=file_of_item[item], element_shape=[-1], element_dtype=tf.int16
        )
        crop = tf.slice(samples, [first_sample[item] + offset_samples], [clip_num_samples])
        return tf.cast(crop, tf.float32) / PCM_FULL_SCALE

    return read_crop


def _mapped_files(corpus: Corpus) -> tf.Tensor:
    """A list of the PCM files, mapped into memory: finding one of 256 takes as long as finding one of one."""
    files = tf.raw_ops.EmptyTensorList(element_shape=[-1], max_num_elements=-1, element_dtype=tf.int16)
    num_files = len(corpus.manifest.audio_files)
    _allow_open_files(num_files)
    try:
        for file in corpus.manifest.audio_files:
            files = tf.raw_ops.TensorListPushBack(input_handle=files, tensor=_mapped(corpus.folder / file.file))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        raise UsageError(
            f"The {num_files} PCM files of {corpus.folder} cannot all be open at once ({error.strerror}); raise the "
            "limits `ulimit -n` and `sysctl vm.max_map_count`, or prepare the corpus in fewer shards."
        ) from error
    return files


def _allow_open_files(num_files: int) -> None:
    # A mapped file counts as open. A run has up to three datasets, each with its own mappings, and needs other files.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 4 * num_files > soft:
        # Not every system accepts its own hard limit.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _mapped(path: Path) -> tf.Tensor:
    """A file as an int16 tensor whose bytes are read when they are used."""
    # TensorFlow's own op for this, ImmutableConst, is folded as a constant: its whole file is copied once. NumPy does
    # not share arrays that are read-only, so it gets the address; nothing writes to an eager tensor.
    samples = np.memmap(path, PCM_DTYPE, "r")
    buffer: Any = (ctypes.c_int16 * len(samples)).from_address(samples.ctypes.data)
    buffer.mapped = samples  # Lives as long as the tensor.
    return tf.experimental.dlpack.from_dlpack(np.ctypeslib.as_array(buffer).__dlpack__())


def _group(song_numbers: np.ndarray, sampling_unit: str) -> tuple[np.ndarray, np.ndarray]:
    """Items sorted by unit, and where each unit begins (with the end as the last entry).

    Songs are in the order of their first items.
    """
    if sampling_unit == "clip":
        return np.arange(len(song_numbers) + 1), np.arange(len(song_numbers))
    songs, first_items, song_of_item = np.unique(song_numbers, return_index=True, return_inverse=True)
    rank_of_song = np.empty(len(songs), np.int64)
    rank_of_song[np.argsort(first_items)] = np.arange(len(songs))
    rank_of_item = rank_of_song[song_of_item]
    begins = np.concatenate([[0], np.cumsum(np.bincount(rank_of_item))])
    return begins, np.argsort(rank_of_item, kind="stable")


def _permute(rank: tf.Tensor, num_units: int, seed: int, epoch: tf.Tensor) -> tf.Tensor:
    # The shuffle op uses only the low byte of each word of its key, so seed and epoch are hashed first.
    seed_and_epoch = tf.stack([tf.constant(seed, tf.int64), epoch])
    key = tf.random.stateless_uniform([3], seed_and_epoch, minval=None, maxval=None, dtype=tf.uint32)
    # With the default of 4 rounds, the orders of successive epochs are correlated (0.3); with 8 they are not.
    return tf.raw_ops.RandomIndexShuffle(index=rank, seed=key, max_index=tf.constant(num_units - 1, tf.int64), rounds=8)


def _fold(stream: tf.Tensor, number: int) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in(stream, tf.constant(number, tf.int64))


def _uniform(shape: list[int], stream: tf.Tensor, number: int, low: tf.Tensor | int, high: tf.Tensor) -> tf.Tensor:
    """int64 uniform in [low, high)."""
    low = tf.cast(low, tf.int64)
    return tf.random.stateless_uniform(shape, _fold(stream, number), minval=low, maxval=high, dtype=tf.int64)


def labelled_dataset(
    corpus: Corpus,
    split: str,
    *,
    batch_size: int,
    clip_num_samples: int,
    seed: int,
    first_step: int = 0,
    sampling_unit: str = "clip",
    shard: BatchShard = WHOLE_BATCH,
) -> tf.data.Dataset:
    """Endless batches of random crops with the tags of their items.

    An epoch visits every item once, in its own order. The next one begins where it ends, even in the middle of a batch,
    because with few labels an epoch may be shorter than a batch. The released code drops the remainder.

    Args:
        corpus: Where the clips and their tags come from.
        split: "train", "valid" or "test".
        batch_size: Crops per batch.
        clip_num_samples: Length of a crop.
        seed: Run seed, 0 to 2^31 - 1.
        first_step: Batches to skip at the start, at no cost.
        sampling_unit: What an epoch visits once: "clip", every item, or "song", one item of each song.
        shard: What to read of each batch, see `pair_dataset`.

    Returns:
        Dataset of {"clips": float32 [n, 1, clip_num_samples] in [-1, 1], "seeds": int32 [n, 1, 2], "item": int64 [n]
        (row in `corpus.items_of(split)`), "labels": float32 [n, tags], multi-hot}.

    Raises:
        UsageError: If the split is empty.
    """
    count = num_units(corpus, split, sampling_unit)
    if count == 0:
        raise UsageError(f"The {split} split of {corpus.manifest.name} is empty; an objective with labels needs one.")
    crops = crop_dataset(
        corpus,
        split,
        num_crops=1,
        epoch_size=count,
        batch_size=batch_size,
        clip_num_samples=clip_num_samples,
        seed=seed,
        first_step=first_step,
        sampling_unit=sampling_unit,
        max_distance_samples=None,
        shard=shard,
    )
    with tf.init_scope():
        labels = tf.constant(corpus.multi_hot(corpus.rows_of(split), np.uint8))
    return crops.map(lambda batch: {**batch, "labels": tf.cast(tf.gather(labels, batch["item"]), tf.float32)})
