"""Requests that TensorFlow Serving answers by itself when it loads a model, so that no client waits for the first ones.

The server reads them from `assets.extra/tf_serving_warmup_requests`: a TFRecord file of `PredictionLog` messages
(tensorflow_serving/apis/prediction_log.proto). The few fields that are needed are encoded here, since the package that
has these messages is of no other use to an export.
"""

import io
import wave
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

_FILE = Path("assets.extra", "tf_serving_warmup_requests")
# Of which every message here is made: a field that says how long it is.
_LENGTH_DELIMITED = 2


def write_warm_up_requests(saved_model: Path, model_name: str, clip_num_samples: int) -> None:
    """Adds a request for every signature that takes audio to a SavedModel.

    One clip, one recording as long as a clip, and one file at 44.1 kHz in stereo, which goes through mixing and
    resampling; all of them silent.

    Args:
        saved_model: Folder of the SavedModel with the signatures of `ServedModel`.
        model_name: What requests call the model.
        clip_num_samples: Length of its window.

    Raises:
        tf.errors.OpError: If the file cannot be written.
    """
    # A number that is given once stands for all of the shape.
    clip = tf.make_tensor_proto(0.0, tf.float32, [1, clip_num_samples])
    recording = tf.make_tensor_proto(0.0, tf.float32, [clip_num_samples])
    file = tf.make_tensor_proto([_silent_file()], tf.string)
    requests = (
        _predict_request(model_name, "serving_default", "audio", clip.SerializeToString()),
        # A server that batches joins whole requests along their first axis, which for a recording is time, and a model
        # whose warm-up fails is not loaded. Requests for some of the outputs are not joined.
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
    """A `PredictRequest` with one input; with `outputs`, for these alone."""
    model_spec = _field(1, model_name.encode()) + _field(3, signature.encode())
    inputs = _field(1, input_name.encode()) + _field(2, tensor)
    return _field(1, model_spec) + _field(2, inputs) + b"".join(_field(3, name.encode()) for name in outputs)


def _field(number: int, content: bytes) -> bytes:
    """A string or a message as a field of the message around it."""
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """A number in groups of 7 bits, the lowest first; all but the last have the eighth bit set."""
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
