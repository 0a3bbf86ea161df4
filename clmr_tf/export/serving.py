"""Serving: signatures for clips, waveforms and WAV files, validation of requests, warm-up requests."""

import io
import wave
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from clmr_tf.audio.resampling import mono_weights_of, plan_block, resample_block
from clmr_tf.models import EMBEDDING_DIM
from clmr_tf.models.clip_encoder import ClipEncoder
from clmr_tf.models.heads import Head

_PCM, _EXTENSIBLE = 1, 0xFFFE
# "RIFF", size, "WAVE".
_FIRST_CHUNK_BYTE = 12
_CHUNK_HEAD_BYTES = 8
# Bytes read of the plain and of the extensible format chunk; the latter has the sample type at a later offset.
_FORMAT_BYTES, _EXTENSIBLE_FORMAT_BYTES = 16, 26
# Real files have a handful; looping over a file full of empty chunks would take minutes.
_MAX_CHUNKS = 100
_LOWEST_RATE_HZ = 1000
# No hardware records at a higher rate, and the memory for resampling a window grows with the rate.
_HIGHEST_RATE_HZ = 768_000
_FULL_SCALE = 32768.0


class WavHeader(NamedTuple):
    """A validated WAV header; int64 scalars.

    Attributes:
        data_byte: Offset of the first sample.
        num_frames: Samples per channel that the file really has, at least 1.
        num_channels: At least 1.
        rate_hz: 1000 to 768,000.
    """

    data_byte: tf.Tensor
    num_frames: tf.Tensor
    num_channels: tf.Tensor
    rate_hz: tf.Tensor


def read_wav_header(content: tf.Tensor) -> WavHeader:
    """Validates the header of a WAV file.

    Args:
        content: The bytes of a RIFF WAVE file with 16-bit PCM, plain or extensible, of any number of channels and any
            rate from 1000 to 768,000 Hz; string scalar.

    Returns:
        The header. If the declared size exceeds the file, or is 0, as interrupted recorders leave it, the samples
        extend to the end of the file.

    Raises:
        tf.errors.InvalidArgumentError: If it is another format, or has no samples.
    """
    num_bytes = tf.cast(tf.strings.length(content), tf.int64)
    # Padded, since the file may be shorter.
    head = tf.strings.join([tf.strings.substr(content, 0, _FIRST_CHUNK_BYTE), bytes(_FIRST_CHUNK_BYTE)])
    is_wav = tf.equal(tf.strings.substr(head, 0, 4), "RIFF") & tf.equal(tf.strings.substr(head, 8, 4), "WAVE")
    with tf.control_dependencies([tf.debugging.Assert(is_wav, ["A file is not a WAV file; send 16-bit PCM WAV."])]):
        start = tf.constant(_FIRST_CHUNK_BYTE, tf.int64)

    def is_before_end(position: tf.Tensor, num_chunks: tf.Tensor, _format: tf.Tensor, data: tf.Tensor) -> tf.Tensor:
        return (position + _CHUNK_HEAD_BYTES <= num_bytes) & (data < 0) & (num_chunks < _MAX_CHUNKS)

    def next_chunk(
        position: tf.Tensor, num_chunks: tf.Tensor, format_byte: tf.Tensor, data_byte: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        name = tf.strings.substr(content, tf.cast(position, tf.int32), 4)
        body = position + _CHUNK_HEAD_BYTES
        format_byte = tf.where(tf.equal(name, "fmt "), body, format_byte)
        data_byte = tf.where(tf.equal(name, "data"), body, data_byte)
        size = _integer(content, position + 4, 4)
        # Chunks start at even offsets.
        return body + size + size % 2, num_chunks + 1, format_byte, data_byte

    nowhere = tf.constant(-1, tf.int64)
    loop = (start, tf.constant(0), nowhere, nowhere)
    # Sequential, since the offset of a chunk depends on the previous one.
    _, _, format_byte, data_byte = tf.while_loop(is_before_end, next_chunk, loop, parallel_iterations=1)
    found = tf.debugging.Assert(
        (format_byte >= 0) & (data_byte >= 0) & (format_byte + _FORMAT_BYTES <= num_bytes),
        [f"A WAV file has no format, or no data in its first {_MAX_CHUNKS} chunks; send 16-bit PCM WAV."],
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
    """The samples of a file, mixed to mono as in `clmr_tf.audio.downmix`.

    Args:
        content: The file that `header` was read from; string scalar.
        header: Its header.

    Returns:
        float32 [samples]; in [-1, 1) with one or two channels. With more, the centre and surround channels may add up
        to more.
    """
    num_bytes = 2 * header.num_frames * header.num_channels
    data = tf.strings.substr(content, tf.cast(header.data_byte, tf.int32), tf.cast(num_bytes, tf.int32))
    frames = tf.reshape(tf.io.decode_raw(data, tf.int16), tf.stack([header.num_frames, header.num_channels]))
    weights = mono_weights_of(tf.cast(header.num_channels, tf.int32))
    return tf.linalg.matvec(tf.cast(frames, tf.float32), weights) / _FULL_SCALE


def _integer(content: tf.Tensor, byte: tf.Tensor, num_bytes: int) -> tf.Tensor:
    """An unsigned little-endian integer, int64; bytes after the end of the file are zeros."""
    byte = tf.minimum(byte, tf.cast(tf.strings.length(content), tf.int64))
    padded = tf.strings.join([tf.strings.substr(content, tf.cast(byte, tf.int32), num_bytes), bytes(num_bytes)])
    digits = tf.io.decode_raw(tf.strings.substr(padded, 0, num_bytes), tf.uint8)
    return tf.reduce_sum(tf.cast(digits, tf.int64) * tf.constant([256**n for n in range(num_bytes)], tf.int64))


Outputs = dict[str, tf.Tensor]

_MUST_BE_FINITE = "Audio must be finite, and some samples are not; send numbers in [-1, 1]"
# Longer recordings are encoded in parts to limit memory.
_WINDOWS_PER_PART = 16
# All headers are read first, which takes less than a second.
_MAX_FILES = 1024
# 24 hours of audio. Answers are padded to the longest file, so one long file among many could fill the memory.
_MAX_WINDOWS = 2**15


class ServedModel:
    """An encoder and a head as self-contained functions of tensors.

    A recording is cut into adjacent windows, as by `clmr_tf.load_encoder`: a remainder is dropped, and a recording
    shorter than a window is padded with zeros. The tags of a recording are the mean over its windows.

    Args:
        encoder: Built, float32.
        head: From embeddings to logits; optional.
        tag_names: Names of the logits; the output of the signature "tag_names".
        single_label: Softmax instead of sigmoids.
    """

    def __init__(self, encoder: ClipEncoder, head: Head | None, tag_names: Sequence[str], single_label: bool) -> None:
        self._encoder = encoder
        # One function, so that the network is traced once for all signatures.
        self._encode = tf.function(
            lambda audio: encoder(audio, training=False),
            input_signature=[tf.TensorSpec([None, encoder.clip_num_samples], tf.float32)],
        )
        self._head = head and [
            tf.constant(array, tf.float32) for array in (head.mean, head.standard_deviation, *head.weights)
        ]
        self._tag_names = tf.constant(list(tag_names), tf.string)
        self._single_label = single_label

    def signatures(self) -> dict[str, tuple[Callable[..., Outputs], list[tf.TensorSpec]]]:
        """Functions and their input signatures, by name."""
        clip = self._encoder.clip_num_samples
        made: dict[str, tuple[Callable[..., Outputs], list[tf.TensorSpec]]] = {
            "serving_default": (self._of_clips, [tf.TensorSpec([None, clip], tf.float32, "audio")]),
            "waveform": (self._of_waveform, [tf.TensorSpec([None], tf.float32, "audio")]),
            "wav_bytes": (self._of_wav_bytes, [tf.TensorSpec([None], tf.string, "wav")]),
        }
        if self._head:
            made["tag_names"] = (lambda: {"tag_names": self._tag_names}, [])
        return made

    def _of_clips(self, audio: tf.Tensor) -> Outputs:
        """float32 [n, clip] -> embedding float32 [n, 512], and tags float32 [n, tags]."""
        clip = self._encoder.clip_num_samples
        audio = _of_shape(audio, rf"\[[1-9]\d* {clip}\]", f"Clips must be [n, {clip}], at least one")
        audio = tf.debugging.check_numerics(audio, _MUST_BE_FINITE)
        embedding = self._encode_in_parts(lambda rows: tf.gather(audio, rows), tf.shape(audio)[0])
        return {"embedding": embedding, **self._tags_of(embedding)}

    def _of_waveform(self, audio: tf.Tensor) -> Outputs:
        """One recording, float32 [samples] at the model's sample rate -> outputs of its windows, and their means."""
        clip = self._encoder.clip_num_samples
        audio = _of_shape(audio, r"\[[1-9]\d*\]", "A waveform must be [samples], at least one")
        audio = tf.debugging.check_numerics(audio, _MUST_BE_FINITE)
        padded = tf.pad(audio, [[0, tf.maximum(clip - tf.size(audio), 0)]])
        num_windows = tf.size(padded) // clip

        def window(index: tf.Tensor) -> tf.Tensor:
            return padded[index * clip : (index + 1) * clip]

        return self._of_windows(window, num_windows)

    def _of_wav_bytes(self, wav: tf.Tensor) -> Outputs:
        """Files, string [n] -> outputs as for a waveform, with a batch dimension, padded with zeros to the longest."""
        wav = _of_shape(wav, r"\[[1-9]\d*\]", "Files must be [n], at least one")
        num_files = tf.size(wav, tf.int64)
        advice = f"A request may have at most {_MAX_FILES} files; received {{}}; send fewer at a time."
        wav = _checked(wav, num_files <= _MAX_FILES, tf.strings.format(advice, num_files))
        # Checks all headers first, so a request is rejected before anything expensive.
        headers = WavHeader(*tf.map_fn(read_wav_header, wav, fn_output_signature=WavHeader(*4 * [tf.int64])))
        own_rate_hz, clip = self._encoder.sample_rate_hz, self._encoder.clip_num_samples
        # Rounded as by soxr, so that the number of windows equals that of `load_encoder`.
        num_samples = (2 * headers.num_frames * own_rate_hz + headers.rate_hz) // (2 * headers.rate_hz)
        num_windows = tf.maximum(num_samples // clip, 1)
        num_answered = num_files * tf.reduce_max(num_windows)
        advice = (
            f"A response may have at most {_MAX_WINDOWS} windows, with all files padded to the longest; this one "
            "would have {}; send fewer or shorter files at a time."
        )
        wav = _checked(wav, num_answered <= _MAX_WINDOWS, tf.strings.format(advice, num_answered))
        spec = {
            "num_windows": tf.TensorSpec([], tf.int32),
            "times_seconds": tf.RaggedTensorSpec([None], tf.float32, ragged_rank=0),
            "embeddings": tf.RaggedTensorSpec([None, EMBEDDING_DIM], tf.float32, ragged_rank=0),
            "embedding": tf.TensorSpec([EMBEDDING_DIM], tf.float32),
        }
        if self._head:
            num_tags = self._tag_names.shape[0]
            spec["tags_of_windows"] = tf.RaggedTensorSpec([None, num_tags], tf.float32, ragged_rank=0)
            spec["tags"] = tf.TensorSpec([num_tags], tf.float32)
        of_files = tf.map_fn(
            lambda one: self._of_file(*one),
            (wav, headers, tf.cast(num_windows, tf.int32)),
            fn_output_signature=spec,
            parallel_iterations=1,
        )
        return {name: one.to_tensor() if isinstance(one, tf.RaggedTensor) else one for name, one in of_files.items()}

    def _of_file(self, content: tf.Tensor, header: WavHeader, num_windows: tf.Tensor) -> Outputs:
        samples, rate_hz = read_wav(content, header), header.rate_hz
        own_rate_hz, clip = self._encoder.sample_rate_hz, self._encoder.clip_num_samples

        def window(index: tf.Tensor) -> tf.Tensor:
            block = plan_block(tf.cast(index, tf.int64) * clip, clip, rate_hz, own_rate_hz)
            last = block.first_sample + block.num_samples
            inside = samples[tf.maximum(block.first_sample, 0) : tf.maximum(last, 0)]
            before = tf.minimum(tf.maximum(-block.first_sample, 0), block.num_samples)
            after = block.num_samples - before - tf.size(inside, tf.int64)
            return resample_block(tf.pad(inside, [tf.stack([before, after])]), block, clip)

        return self._of_windows(window, num_windows)

    def _of_windows(self, window: Callable[[tf.Tensor], tf.Tensor], num_windows: tf.Tensor) -> Outputs:
        clip = self._encoder.clip_num_samples

        def windows(indices: tf.Tensor) -> tf.Tensor:
            spec = tf.TensorSpec([clip], tf.float32)
            # Sequential: resampling from a high rate takes up to 100 MB per window.
            return tf.map_fn(window, indices, fn_output_signature=spec, parallel_iterations=1)

        embeddings = self._encode_in_parts(windows, num_windows)
        times = tf.cast(tf.range(num_windows), tf.float32) * (clip / self._encoder.sample_rate_hz)
        outputs = {"num_windows": num_windows, "times_seconds": times, "embeddings": embeddings}
        outputs["embedding"] = tf.reduce_mean(embeddings, 0)
        if self._head:
            tags = self._tags_of(embeddings)["tags"]
            outputs |= {"tags_of_windows": tags, "tags": tf.reduce_mean(tags, 0)}
        return outputs

    def _encode_in_parts(self, windows: Callable[[tf.Tensor], tf.Tensor], num_windows: tf.Tensor) -> tf.Tensor:
        """Embeddings float32 [num_windows, 512] of `windows`, a function int32 [n] -> float32 [n, clip]."""
        windows_per_part = tf.minimum(num_windows, _WINDOWS_PER_PART)

        def part(first: tf.Tensor) -> tf.Tensor:
            # The last part repeats the last window, which is cut off below.
            return self._encode(windows(tf.minimum(first + tf.range(windows_per_part), num_windows - 1)))

        starts = tf.range(0, num_windows, windows_per_part)
        spec = tf.TensorSpec([None, EMBEDDING_DIM], tf.float32)
        parts = tf.map_fn(part, starts, fn_output_signature=spec, parallel_iterations=1)
        return tf.reshape(parts, [-1, EMBEDDING_DIM])[:num_windows]

    def _tags_of(self, embedding: tf.Tensor) -> Outputs:
        if not self._head:
            return {}
        mean, standard_deviation, *weights = self._head
        hidden = (embedding - mean) / standard_deviation
        for layer in range(0, len(weights), 2):
            hidden = tf.nn.relu(hidden) if layer else hidden
            hidden = hidden @ weights[layer] + weights[layer + 1]
        return {"tags": tf.nn.softmax(hidden) if self._single_label else tf.sigmoid(hidden)}


def _of_shape(tensor: tf.Tensor, pattern: str, rule: str) -> tf.Tensor:
    """Returns a tensor if its shape matches a pattern; otherwise the request fails with a sentence.

    A server does not compare inputs with the shapes of the signature, and some kernels (oneDNN's convolutions) crash
    the process on other shapes. TensorFlow trusts the signature too, and removes a numeric comparison from the graph as
    always true, so the shapes are compared as text.

    Args:
        tensor: Input of a signature.
        pattern: Regular expression for the shape as TensorFlow prints it, such as "[2 59049]".
        rule: Start of the sentence.
    """
    received = tf.strings.format("{}", tf.shape(tensor))
    sentence = tf.strings.join([f"{rule}; received the shape ", received, "."])
    return _checked(tensor, tf.strings.regex_full_match(received, pattern), sentence)


def _checked(tensor: tf.Tensor, is_right: tf.Tensor, sentence: tf.Tensor) -> tf.Tensor:
    """Returns a tensor if `is_right`; otherwise the request fails with a sentence (InvalidArgument)."""
    with tf.control_dependencies([tf.debugging.Assert(is_right, [sentence])]):
        return tf.ensure_shape(tensor, tensor.shape)


_FILE = Path("assets.extra", "tf_serving_warmup_requests")
# Wire type of every field here.
_LENGTH_DELIMITED = 2


def write_warm_up_requests(saved_model: Path, model_name: str, clip_num_samples: int) -> None:
    """Adds warm-up requests to a SavedModel, one for each signature that takes audio.

    They are silent: a clip, a recording as long as a clip, and a stereo file at 44.1 kHz, which is mixed and resampled.

    Args:
        saved_model: Folder of the SavedModel with the signatures of `ServedModel`.
        model_name: Name of the model in requests.
        clip_num_samples: Length of its window.

    Raises:
        tf.errors.OpError: If the file cannot be written.
    """
    # A single value fills the whole shape.
    clip = tf.make_tensor_proto(0.0, tf.float32, [1, clip_num_samples])
    recording = tf.make_tensor_proto(0.0, tf.float32, [clip_num_samples])
    file = tf.make_tensor_proto([_silent_file()], tf.string)
    requests = (
        _predict_request(model_name, "serving_default", "audio", clip.SerializeToString()),
        # A server with batching joins requests along the first axis, which is time for a recording, and does not load a
        # model whose warm-up fails. Requests for only some outputs are not joined.
        _predict_request(model_name, "waveform", "audio", recording.SerializeToString(), outputs=["embedding"]),
        _predict_request(model_name, "wav_bytes", "wav", file.SerializeToString()),
    )
    path = saved_model / _FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for request in requests:
            predict_log = _field(1, request)
            writer.write(_field(6, predict_log))


def _predict_request(
    model_name: str, signature: str, input_name: str, tensor: bytes, outputs: Sequence[str] = ()
) -> bytes:
    """A `PredictRequest` with one input, for all outputs or for those in `outputs`."""
    model_spec = _field(1, model_name.encode()) + _field(3, signature.encode())
    inputs = _field(1, input_name.encode()) + _field(2, tensor)
    return _field(1, model_spec) + _field(2, inputs) + b"".join(_field(3, name.encode()) for name in outputs)


def _field(number: int, content: bytes) -> bytes:
    """A string or message as a field of another message."""
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Base-128 varint: groups of 7 bits, lowest first; all but the last have the eighth bit set."""
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _silent_file() -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44_100)
        file.writeframes(bytes(4))
    return content.getvalue()
