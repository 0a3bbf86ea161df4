"""16-bit WAV files read inside a graph.

`tf.audio.decode_wav` refuses the extensible format, in which everything with more than two channels is written, and
loses its way behind a chunk of odd length.
"""

import tensorflow as tf

_PCM, _EXTENSIBLE = 1, 0xFFFE
# "RIFF", size, "WAVE".
_FIRST_CHUNK_BYTE = 12
_CHUNK_HEAD_BYTES = 8
_LOWEST_RATE_HZ = 1000
_FULL_SCALE = 32768.0


def read_wav(content: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Samples and rate of a file.

    Args:
        content: The bytes of a RIFF WAVE file with 16-bit PCM, plain or extensible, of any rate from 1000 Hz and any
            number of channels; string scalar.

    Returns:
        float32 [samples] in [-1, 1), the mean of the channels; and the rate in Hz, int64 scalar. A file that was cut
        short, or says that it has more than it has, gives what is there.

    Raises:
        tf.errors.InvalidArgumentError: If it is something else.
    """
    num_bytes = tf.cast(tf.strings.length(content), tf.int64)
    # Whatever it is, it has as many bytes then.
    head = tf.strings.join([content, bytes(_FIRST_CHUNK_BYTE)])
    is_wav = tf.equal(tf.strings.substr(head, 0, 4), "RIFF") & tf.equal(tf.strings.substr(head, 8, 4), "WAVE")
    with tf.control_dependencies([tf.debugging.Assert(is_wav, ["A file is no WAV file; send 16-bit PCM WAV."])]):
        start = tf.constant(_FIRST_CHUNK_BYTE, tf.int64)

    def is_before_end(position: tf.Tensor, _format: tf.Tensor, data: tf.Tensor) -> tf.Tensor:
        return (position + _CHUNK_HEAD_BYTES <= num_bytes) & (data < 0)

    def next_chunk(position: tf.Tensor, format_byte: tf.Tensor, data_byte: tf.Tensor) -> tuple[tf.Tensor, ...]:
        name = tf.strings.substr(content, tf.cast(position, tf.int32), 4)
        body = position + _CHUNK_HEAD_BYTES
        format_byte = tf.where(tf.equal(name, "fmt "), body, format_byte)
        data_byte = tf.where(tf.equal(name, "data"), body, data_byte)
        size = _integer(content, position + 4, 4)
        # Chunks begin at even bytes.
        return body + size + size % 2, format_byte, data_byte

    nowhere = tf.constant(-1, tf.int64)
    _, format_byte, data_byte = tf.while_loop(is_before_end, next_chunk, (start, nowhere, nowhere))
    found = tf.debugging.Assert(
        (format_byte >= 0) & (data_byte >= 0) & (format_byte + 16 <= num_bytes),
        ["A WAV file has no format or no data; send 16-bit PCM WAV."],
    )
    with tf.control_dependencies([found]):
        kind, num_channels = _integer(content, format_byte, 2), _integer(content, format_byte + 2, 2)
        rate_hz, num_bits = _integer(content, format_byte + 4, 4), _integer(content, format_byte + 14, 2)
    is_readable = ((kind == _PCM) | (kind == _EXTENSIBLE)) & (num_bits == 16) & (num_channels > 0)
    words = "A WAV file must have 16-bit PCM of 1000 Hz and more; format, bits, channels and rate are"
    readable = tf.debugging.Assert(
        is_readable & (rate_hz >= _LOWEST_RATE_HZ), [words, kind, num_bits, num_channels, rate_hz]
    )
    with tf.control_dependencies([readable]):
        size = tf.minimum(_integer(content, data_byte - 4, 4), num_bytes - data_byte)
        frame_bytes = 2 * num_channels
        size = size // frame_bytes * frame_bytes
    pcm = tf.io.decode_raw(tf.strings.substr(content, tf.cast(data_byte, tf.int32), tf.cast(size, tf.int32)), tf.int16)
    frames = tf.reshape(pcm, tf.stack([size // frame_bytes, num_channels]))
    return tf.reduce_mean(tf.cast(frames, tf.float32), axis=1) / _FULL_SCALE, rate_hz


def _integer(content: tf.Tensor, byte: tf.Tensor, num_bytes: int) -> tf.Tensor:
    """An unsigned little-endian number, int64."""
    digits = tf.io.decode_raw(tf.strings.substr(content, tf.cast(byte, tf.int32), num_bytes), tf.uint8)
    return tf.reduce_sum(tf.cast(digits, tf.int64) * tf.constant([256**n for n in range(num_bytes)], tf.int64))
