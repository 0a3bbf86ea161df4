"""The signatures of an exported model: clips, one recording, or files, to embeddings and tags."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from clmr_tf.head import Head
from clmr_tf.models.sample_cnn import EMBEDDING_DIM, SampleCNN
from clmr_tf.resampling import plan_block, resample_block
from clmr_tf.serving.wav import WavHeader, read_wav, read_wav_header

Outputs = dict[str, tf.Tensor]

_MUST_BE_FINITE = "Audio must be finite, and some samples are not; send numbers in [-1, 1]"
# A longer recording is encoded in parts, or its activations would fill the memory.
_WINDOWS_PER_PART = 16
# Their headers are all read before anything else, in less than a second.
_MOST_FILES = 1024
# 24 hours of audio. Without a limit, one long file among many short ones would make the answer fill the memory.
_MOST_WINDOWS = 2**15


class ServedModel:
    """An encoder and a head as functions of tensors, with everything that they need inside.

    A recording is cut into windows that follow each other, as `clmr_tf.load_encoder` does; what is left over at the end
    is dropped, and a recording that is shorter than a window is filled up with zeros. Tags are probabilities, sigmoids
    or with one label a clip a softmax; the tags of a recording are the mean of those of its windows.

    Args:
        encoder: Built, float32.
        head: From embeddings to logits, if there is one.
        tag_names: Of the logits; an output of the signature "tag_names".
        single_label: Whether exactly one tag holds.
    """

    def __init__(self, encoder: SampleCNN, head: Head | None, tag_names: Sequence[str], single_label: bool) -> None:
        self._encoder = encoder
        # A function of its own, or every signature would trace the network again.
        self._encode = tf.function(
            lambda audio: encoder(audio, training=False),
            input_signature=[tf.TensorSpec([None, encoder.clip_num_samples], tf.float32)],
        )
        self._head = head and [tf.constant(array, tf.float32) for array in (head.mean, head.deviation, *head.weights)]
        self._tag_names = tf.constant(list(tag_names), tf.string)
        self._single_label = single_label

    def signatures(self) -> dict[str, tuple[Callable[..., Outputs], list[tf.TensorSpec]]]:
        """Functions by their names, with what they take."""
        clip = self._encoder.clip_num_samples
        made = {
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
        """One recording, float32 [samples] at the model's rate -> what its windows give, and the means."""
        clip = self._encoder.clip_num_samples
        audio = _of_shape(audio, r"\[[1-9]\d*\]", "A waveform must be [samples], at least one")
        audio = tf.debugging.check_numerics(audio, _MUST_BE_FINITE)
        padded = tf.pad(audio, [[0, tf.maximum(clip - tf.size(audio), 0)]])
        num_windows = tf.size(padded) // clip

        def window(index: tf.Tensor) -> tf.Tensor:
            return padded[index * clip : (index + 1) * clip]

        return self._of_windows(window, num_windows)

    def _of_wav_bytes(self, wav: tf.Tensor) -> Outputs:
        """Files, string [n] -> as of one recording with a dimension more, filled up with zeros to the longest file."""
        wav = _of_shape(wav, r"\[[1-9]\d*\]", "Files must be [n], at least one")
        num_files = tf.size(wav, tf.int64)
        advice = f"A request may have {_MOST_FILES} files; received {{}}, so send fewer at a time."
        wav = _checked(wav, num_files <= _MOST_FILES, tf.strings.format(advice, num_files))
        # All headers before the first window: a request is refused before it has cost anything.
        headers = WavHeader(*tf.map_fn(read_wav_header, wav, fn_output_signature=WavHeader(*4 * [tf.int64])))
        own_rate_hz, clip = self._encoder.sample_rate_hz, self._encoder.clip_num_samples
        # Rounded as soxr does, or a file could have a window more here than in `load_encoder`.
        num_samples = (2 * headers.num_frames * own_rate_hz + headers.rate_hz) // (2 * headers.rate_hz)
        num_windows = tf.maximum(num_samples // clip, 1)
        num_answered = num_files * tf.reduce_max(num_windows)
        advice = (
            f"The answer to a request may have {_MOST_WINDOWS} windows, all files filled up to the longest; this one "
            "would have {}, so send fewer or shorter files at a time."
        )
        wav = _checked(wav, num_answered <= _MOST_WINDOWS, tf.strings.format(advice, num_answered))
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
            # One window after the other: resampling from a high rate takes up to 100 MB for each.
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
        """float32 [num_windows, 512] of what `windows` gives for indices, int32 [n] -> float32 [n, clip]."""
        windows_per_part = tf.minimum(num_windows, _WINDOWS_PER_PART)

        def part(first: tf.Tensor) -> tf.Tensor:
            # Those beyond the end are the last one again, which is cut off below.
            return self._encode(windows(tf.minimum(first + tf.range(windows_per_part), num_windows - 1)))

        starts = tf.range(0, num_windows, windows_per_part)
        spec = tf.TensorSpec([None, EMBEDDING_DIM], tf.float32)
        parts = tf.map_fn(part, starts, fn_output_signature=spec, parallel_iterations=1)
        return tf.reshape(parts, [-1, EMBEDDING_DIM])[:num_windows]

    def _tags_of(self, embedding: tf.Tensor) -> Outputs:
        if not self._head:
            return {}
        mean, deviation, *weights = self._head
        hidden = (embedding - mean) / deviation
        for layer in range(0, len(weights), 2):
            hidden = tf.nn.relu(hidden) if layer else hidden
            hidden = hidden @ weights[layer] + weights[layer + 1]
        return {"tags": tf.nn.softmax(hidden) if self._single_label else tf.sigmoid(hidden)}


def _of_shape(tensor: tf.Tensor, pattern: str, rule: str) -> tf.Tensor:
    """The tensor, once its shape matches a pattern; otherwise the request ends with a sentence.

    A server does not compare what it receives with the shapes of the signature, and some kernels end the process when
    they get another one (convolutions of oneDNN). TensorFlow trusts the signature as well and would remove a comparison
    of numbers from the graph as always true; it does not look into text.

    Args:
        tensor: Of a signature.
        pattern: Regular expression of the shape as TensorFlow prints it, such as "[2 59049]".
        rule: Begins the sentence.
    """
    received = tf.strings.format("{}", tf.shape(tensor))
    sentence = tf.strings.join([f"{rule}; received the shape ", received, ", so send another."])
    return _checked(tensor, tf.strings.regex_full_match(received, pattern), sentence)


def _checked(tensor: tf.Tensor, is_right: tf.Tensor, sentence: tf.Tensor) -> tf.Tensor:
    """The tensor, once `is_right` holds; otherwise the request ends with a sentence (InvalidArgument)."""
    with tf.control_dependencies([tf.debugging.Assert(is_right, [sentence])]):
        return tf.ensure_shape(tensor, tensor.shape)
