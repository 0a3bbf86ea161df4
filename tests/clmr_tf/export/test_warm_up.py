"""Warm-up requests, read with the messages of TensorFlow Serving, and run by the model."""

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.export.model_folder import SAVED_MODEL
from clmr_tf.export.serving import write_warm_up_requests

messages = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2", reason="needs tensorflow-serving-api")


def requests_of(saved_model):
    records = tf.data.TFRecordDataset(str(saved_model / "assets.extra" / "tf_serving_warmup_requests"))
    logs = [messages.PredictionLog.FromString(record.numpy()) for record in records]
    assert all(log.WhichOneof("log_type") == "predict_log" for log in logs)
    return {log.predict_log.request.model_spec.signature_name: log.predict_log.request for log in logs}


@pytest.fixture(scope="module")
def requests(exported):
    return requests_of(exported.folder / SAVED_MODEL)


def answer(exported, request) -> dict[str, np.ndarray]:
    inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
    return exported.call(request.model_spec.signature_name, **inputs)


def test_every_signature_with_audio_has_one_request(exported, requests):
    assert set(requests) == set(exported.saved.signatures) - {"tag_names"}
    assert {request.model_spec.name for request in requests.values()} == {"tiny"}


def test_the_model_answers_every_request(exported, requests):
    num_windows = {}
    for signature, request in requests.items():
        outputs = answer(exported, request)
        assert set(request.output_filter) <= set(outputs) and {"embedding", "tags"} <= set(outputs)
        assert all(np.isfinite(output).all() for output in outputs.values())
        num_windows[signature] = outputs.get("num_windows")
    assert num_windows == {"serving_default": None, "waveform": 1, "wav_bytes": [1]}
    silence = exported.call("serving_default", audio=np.zeros((1, 59049), np.float32))["embedding"]
    np.testing.assert_array_equal(answer(exported, requests["serving_default"])["embedding"], silence)


def test_a_server_that_batches_can_answer_every_request(exported, requests):
    # It joins what asks for all outputs along the first axis, and cuts the outputs there again.
    for request in requests.values():
        outputs = answer(exported, request)
        if request.output_filter:
            assert set(request.output_filter) < set(outputs)
        else:
            assert all(output.shape[0] == 1 for output in outputs.values())
            assert all(tensor.tensor_shape.dim[0].size == 1 for tensor in request.inputs.values())


def test_silence_takes_no_space(exported):
    assert (exported.folder / SAVED_MODEL / "assets.extra" / "tf_serving_warmup_requests").stat().st_size < 1000


def test_names_and_clips_of_any_length_are_encoded(tmp_path):
    name = "é" * 20_000
    write_warm_up_requests(tmp_path, name, 3_000_000)
    request = requests_of(tmp_path)["serving_default"]
    assert request.model_spec.name == name and not request.output_filter
    assert tf.make_ndarray(request.inputs["audio"]).shape == (1, 3_000_000)
