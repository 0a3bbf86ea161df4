"""16-bit WAV files read inside a graph.

`tf.audio.decode_wav` refuses the extensible format, in which everything with more than two channels is written, and
loses its way behind a chunk of odd length.

Whatever the bytes are, reading them ends in samples or in one sentence: no number of a header is used before it is
checked, and no header makes the graph take more memory or steps than the file is long.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from clmr_tf.downmix import mono_weights

_PCM, _EXTENSIBLE = 1, 0xFFFE
# "RIFF", size, "WAVE".
_FIRST_CHUNK_BYTE = 12
_CHUNK_HEAD_BYTES = 8
# Of the format chunk: the plain one, and the extensible one, which names the kind of samples further behind.
_FORMAT_BYTES, _EXTENSIBLE_FORMAT_BYTES = 16, 26
# A file of empty chunks alone would keep the loop over them busy for minutes; real files have a handful.
_MOST_CHUNKS = 100
_LOWEST_RATE_HZ = 1000
# The highest that hardware records at; resampling a window takes memory in proportion to the rate.
_HIGHEST_RATE_HZ = 768_000
_FULL_SCALE = 32768.0
_MOST_WEIGHTED_CHANNELS = 8


class WavHeader(NamedTuple):
    """What has been checked of a file; int64 scalars.

    Attributes:
        data_byte: Where the first sample is.
        num_frames: Samples of each channel, at least 1; those that are there.
        num_channels: At least 1.
        rate_hz: 1000 to 768,000.
    """

    data_byte: tf.Tensor
    num_frames: tf.Tensor
    num_channels: tf.Tensor
    rate_hz: tf.Tensor


def read_wav_header(content: tf.Tensor) -> WavHeader:
    """Finds and checks the samples of a file.

    Args:
        content: The bytes of a RIFF WAVE file with 16-bit PCM, plain or extensible, of any number of channels and any
            rate from 1000 to 768,000 Hz; string scalar.

    Returns:
        The header. A file that was cut short, or says that it has more than it has, has what is there; one that says
        it has nothing, as a recorder leaves it that stopped before its end, has everything up to the end of the file.

    Raises:
        tf.errors.InvalidArgumentError: If it is something else, or has no sample.
    """
    num_bytes = tf.cast(tf.strings.length(content), tf.int64)
    # Whatever it is, it has as many bytes then.
    head = tf.strings.join([tf.strings.substr(content, 0, _FIRST_CHUNK_BYTE), bytes(_FIRST_CHUNK_BYTE)])
    is_wav = tf.equal(tf.strings.substr(head, 0, 4), "RIFF") & tf.equal(tf.strings.substr(head, 8, 4), "WAVE")
    with tf.control_dependencies([tf.debugging.Assert(is_wav, ["A file is no WAV file; send 16-bit PCM WAV."])]):
        start = tf.constant(_FIRST_CHUNK_BYTE, tf.int64)

    def is_before_end(position: tf.Tensor, num_chunks: tf.Tensor, _format: tf.Tensor, data: tf.Tensor) -> tf.Tensor:
        return (position + _CHUNK_HEAD_BYTES <= num_bytes) & (data < 0) & (num_chunks < _MOST_CHUNKS)

    def next_chunk(
        position: tf.Tensor, num_chunks: tf.Tensor, format_byte: tf.Tensor, data_byte: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        name = tf.strings.substr(content, tf.cast(position, tf.int32), 4)
        body = position + _CHUNK_HEAD_BYTES
        format_byte = tf.where(tf.equal(name, "fmt "), body, format_byte)
        data_byte = tf.where(tf.equal(name, "data"), body, data_byte)
        size = _integer(content, position + 4, 4)
        # Chunks begin at even bytes.
        return body + size + size % 2, num_chunks + 1, format_byte, data_byte

    nowhere = tf.constant(-1, tf.int64)
    loop = (start, tf.constant(0), nowhere, nowhere)
    # One chunk after the other: the place of each depends on the one before.
    _, _, format_byte, data_byte = tf.while_loop(is_before_end, next_chunk, loop, parallel_iterations=1)
    found = tf.debugging.Assert(
        (format_byte >= 0) & (data_byte >= 0) & (format_byte + _FORMAT_BYTES <= num_bytes),
        [f"A WAV file has no format, or no data in its first {_MOST_CHUNKS} chunks; send 16-bit PCM WAV."],
    )
    with tf.control_dependencies([found]):
        kind, num_channels = _integer(content, format_byte, 2), _integer(content, format_byte + 2, 2)
        rate_hz, num_bits = _integer(content, format_byte + 4, 4), _integer(content, format_byte + 14, 2)
        subkind = _integer(content, format_byte + _EXTENSIBLE_FORMAT_BYTES - 2, 2)
    is_readable = ((kind == _PCM) | ((kind == _EXTENSIBLE) & (subkind == _PCM))) & (num_bits == 16)
    is_readable &= (num_channels > 0) & (rate_hz >= _LOWEST_RATE_HZ) & (rate_hz <= _HIGHEST_RATE_HZ)
    received = tf.strings.format(
        f"A WAV file must be 16-bit PCM of {_LOWEST_RATE_HZ} to {_HIGHEST_RATE_HZ} Hz; received format {{}} with {{}} "
        "bits, {} channels and {} Hz, so convert it first.",
        (kind, num_bits, num_channels, rate_hz),
    )
    with tf.control_dependencies([tf.debugging.Assert(is_readable, [received])]):
        size, left = _integer(content, data_byte - 4, 4), num_bytes - data_byte
        num_frames = tf.where(size == 0, left, tf.minimum(size, left)) // (2 * num_channels)
    has_samples = tf.debugging.Assert(num_frames > 0, ["A WAV file has no samples; send one with music."])
    with tf.control_dependencies([has_samples]):
        return WavHeader(*map(tf.identity, (data_byte, num_frames, num_channels, rate_hz)))


def read_wav(content: tf.Tensor, header: WavHeader) -> tf.Tensor:
    """The samples of a file, mixed to mono as `clmr_tf.downmix` says.

    Args:
        content: The file that `header` was read from; string scalar.
        header: Of it.

    Returns:
        float32 [samples]; in [-1, 1) with one or two channels, while the centre and the surrounds of more may add up
        to more.
    """
    num_bytes = 2 * header.num_frames * header.num_channels
    data = tf.strings.substr(content, tf.cast(header.data_byte, tf.int32), tf.cast(num_bytes, tf.int32))
    frames = tf.reshape(tf.io.decode_raw(data, tf.int16), tf.stack([header.num_frames, header.num_channels]))
    return tf.linalg.matvec(tf.cast(frames, tf.float32), _weights_of(header.num_channels)) / _FULL_SCALE


def _weights_of(num_channels: tf.Tensor) -> tf.Tensor:
    """`mono_weights` in a graph, float32 [num_channels]."""
    table = np.zeros((_MOST_WEIGHTED_CHANNELS + 1, _MOST_WEIGHTED_CHANNELS), np.float32)
    for count in range(1, _MOST_WEIGHTED_CHANNELS + 1):
        table[count, :count] = mono_weights(count)
    is_weighted = num_channels <= _MOST_WEIGHTED_CHANNELS
    row = tf.constant(table)[tf.minimum(num_channels, _MOST_WEIGHTED_CHANNELS)]
    shape = tf.reshape(tf.cast(num_channels, tf.int32), [1])
    return tf.cond(
        is_weighted, lambda: tf.slice(row, [0], shape), lambda: tf.fill(shape, 1 / tf.cast(num_channels, tf.float32))
    )


def _integer(content: tf.Tensor, byte: tf.Tensor, num_bytes: int) -> tf.Tensor:
    """An unsigned little-endian number, int64; bytes behind the end of the file are zeros."""
    byte = tf.minimum(byte, tf.cast(tf.strings.length(content), tf.int64))
    padded = tf.strings.join([tf.strings.substr(content, tf.cast(byte, tf.int32), num_bytes), bytes(num_bytes)])
    digits = tf.io.decode_raw(tf.strings.substr(padded, 0, num_bytes), tf.uint8)
    return tf.reduce_sum(tf.cast(digits, tf.int64) * tf.constant([256**n for n in range(num_bytes)], tf.int64))
