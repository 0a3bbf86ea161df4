"""The signatures of an exported model: clips, one recording, or files, to embeddings and tags."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from clmr_tf.head import Head
from clmr_tf.models.sample_cnn import EMBEDDING_DIM, SampleCNN
from clmr_tf.resampling import plan_block, resample_block
from clmr_tf.serving.wav import read_wav

Outputs = dict[str, tf.Tensor]

_MUST_BE_FINITE = "Audio must be finite, and some samples are not; send numbers in [-1, 1]"
# A longer recording is encoded in parts, or its activations would fill the memory.
_WINDOWS_PER_PART = 16


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
        embedding = self._encode(tf.debugging.check_numerics(audio, _MUST_BE_FINITE))
        return {"embedding": embedding, **self._tags_of(embedding)}

    def _of_waveform(self, audio: tf.Tensor) -> Outputs:
        """One recording, float32 [samples] at the model's rate -> what its windows give, and the means."""
        clip = self._encoder.clip_num_samples
        audio = tf.debugging.check_numerics(audio, _MUST_BE_FINITE)
        padded = tf.pad(audio, [[0, tf.maximum(clip - tf.size(audio), 0)]])
        num_windows = tf.size(padded) // clip

        def window(index: tf.Tensor) -> tf.Tensor:
            return padded[index * clip : (index + 1) * clip]

        return self._of_windows(window, num_windows)

    def _of_wav_bytes(self, wav: tf.Tensor) -> Outputs:
        """Files, string [n] -> as of one recording with a dimension more, filled up with zeros to the longest file."""
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
        of_files = tf.map_fn(self._of_file, wav, fn_output_signature=spec)
        return {name: one.to_tensor() if isinstance(one, tf.RaggedTensor) else one for name, one in of_files.items()}

    def _of_file(self, content: tf.Tensor) -> Outputs:
        samples, rate_hz = read_wav(content)
        own_rate_hz, clip = self._encoder.sample_rate_hz, self._encoder.clip_num_samples
        # Rounded as soxr does, or a file could have a window more here than in `load_encoder`.
        num_samples = (2 * tf.size(samples, tf.int64) * own_rate_hz + rate_hz) // (2 * rate_hz)
        num_windows = tf.maximum(tf.cast(num_samples // clip, tf.int32), 1)

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

        def part(first: tf.Tensor) -> tf.Tensor:
            # Those beyond the end are the last one again, which is cut off below.
            indices = tf.minimum(first + tf.range(_WINDOWS_PER_PART), num_windows - 1)
            spec = tf.TensorSpec([clip], tf.float32)
            return self._encode(tf.map_fn(window, indices, fn_output_signature=spec))

        starts = tf.range(0, num_windows, _WINDOWS_PER_PART)
        spec = tf.TensorSpec([_WINDOWS_PER_PART, EMBEDDING_DIM], tf.float32)
        embeddings = tf.reshape(tf.map_fn(part, starts, fn_output_signature=spec), [-1, EMBEDDING_DIM])[:num_windows]
        times = tf.cast(tf.range(num_windows), tf.float32) * (clip / self._encoder.sample_rate_hz)
        outputs = {"num_windows": num_windows, "times_seconds": times, "embeddings": embeddings}
        outputs["embedding"] = tf.reduce_mean(embeddings, 0)
        if self._head:
            tags = self._tags_of(embeddings)["tags"]
            outputs |= {"tags_of_windows": tags, "tags": tf.reduce_mean(tags, 0)}
        return outputs

    def _tags_of(self, embedding: tf.Tensor) -> Outputs:
        if not self._head:
            return {}
        mean, deviation, *weights = self._head
        hidden = (embedding - mean) / deviation
        for layer in range(0, len(weights), 2):
            hidden = tf.nn.relu(hidden) if layer else hidden
            hidden = hidden @ weights[layer] + weights[layer + 1]
        return {"tags": tf.nn.softmax(hidden) if self._single_label else tf.sigmoid(hidden)}
