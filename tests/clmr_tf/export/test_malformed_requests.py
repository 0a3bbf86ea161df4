"""Malformed requests are refused at once in a sentence, and afterwards the server gives correct outputs."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clmr_tf.export.model_folder import SAVED_MODEL
from tests.clmr_tf.export.malformed import INPUT_OF, REQUESTS, Request, random_request
from tests.clmr_tf.exported import SONG, assert_same
from tests.clmr_tf.probed import CLIP

ROOT = Path(__file__).parents[3]
CLIPS = SONG[: 2 * CLIP].reshape(2, CLIP)
# In a process of its own, because of what it must not do: end, or take a gigabyte. oneDNN is what ended it once, and is
# on by default on some processors only.
APART = """
import json, resource, sys, time
import numpy as np, tensorflow as tf
from tests.clmr_tf.export.malformed import CLIP, INPUT_OF, REQUESTS, wav_bytes

saved = tf.saved_model.load(sys.argv[1])

def ask(signature, value):
    tensor = tf.constant(value, tf.string if value.dtype == object else tf.float32)
    return saved.signatures[signature](**{INPUT_OF[signature]: tensor})

right = (("serving_default", np.load("clips.npy")), ("waveform", np.zeros(CLIP, np.float32)),
         ("wav_bytes", np.array([wav_bytes()], object)))
for request in right:
    ask(*request)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
answers = []
for request in REQUESTS:
    started = time.process_time()
    try:
        ask(request.signature, request.value)
        answer = "no error"
    except tf.errors.InvalidArgumentError as error:
        answer = str(error)
    answers.append([answer, time.process_time() - started])
unit = 1 if sys.platform == "darwin" else 1024
taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * unit
np.save("embedding.npy", ask(*right[0])["embedding"].numpy())
print(json.dumps({"answers": answers, "taken_bytes": taken}))
"""


def test_every_malformed_request_is_refused_at_once_by_a_process_that_survives(exported, tmp_path):
    np.save(tmp_path / "clips.npy", CLIPS)
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", APART, str(exported.folder / SAVED_MODEL)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert len(found["answers"]) == len(REQUESTS) > 40
    for request, (answer, seconds) in zip(REQUESTS, found["answers"], strict=True):
        assert request.words in answer and len(answer) < 1000, request
        assert seconds < 1, request
    assert found["taken_bytes"] < 2**30
    assert_same(np.load(tmp_path / "embedding.npy"), exported.encoder.encode_clips(CLIPS))


@pytest.fixture(scope="module")
def server(exported):
    pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api")
    from tests.clmr_tf.export.protocol_server import ProtocolServer

    with ProtocolServer(exported.folder / SAVED_MODEL, "tiny") as server:
        yield server


@pytest.fixture(scope="module")
def stub(server):
    import grpc
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    with grpc.insecure_channel(server.grpc_address, [("grpc.max_receive_message_length", -1)]) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def over_grpc(stub, request: Request) -> dict[str, np.ndarray] | str:
    """Outputs, or the sentence of an INVALID_ARGUMENT."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    message = predict_pb2.PredictRequest()
    message.model_spec.name, message.model_spec.signature_name = "tiny", request.signature
    dtype = tf.string if request.value.dtype == object else tf.float32
    tensor = tf.make_tensor_proto(request.value, dtype, request.value.shape)
    message.inputs[INPUT_OF[request.signature]].CopyFrom(tensor)
    try:
        answer = stub.Predict(message, 60)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
        return error.details()
    return {name: tf.make_ndarray(one) for name, one in answer.outputs.items()}


def over_rest(server, request: Request) -> dict[str, np.ndarray] | str:
    """Outputs, or the sentence of a status 400; of files only."""
    import requests

    def encoded(value):
        return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else list(map(encoded, value))

    body = {"signature_name": request.signature, "inputs": {"wav": encoded(request.value.tolist())}}
    address = f"http://{server.rest_address}/v1/models/tiny:predict"
    response = requests.post(address, data=json.dumps(body), timeout=60)
    if response.status_code == 400:
        return response.json()["error"]
    assert response.status_code == 200
    return {name: np.array(value) for name, value in response.json()["outputs"].items()}


# 15,000 are a few minutes.
@pytest.mark.parametrize("num_requests", [80, pytest.param(15_000, marks=pytest.mark.soak)])
def test_the_protocol_server_survives_malformed_requests(exported, server, stub, num_requests):
    expected = exported.encoder.encode_clips(CLIPS)
    generator = np.random.default_rng(num_requests)
    num_refused = 0
    for number in range(num_requests):
        request = random_request(generator)
        is_small_file = request.signature == "wav_bytes" and sum(map(len, request.value.ravel())) < 10_000
        answer = over_rest(server, request) if number % 2 and is_small_file else over_grpc(stub, request)
        if isinstance(answer, str):
            num_refused += 1
            assert request.words is None or request.words in answer, request
        else:
            assert request.words is None and all(np.isfinite(value).all() for value in answer.values()), request
    assert num_refused > num_requests / 2
    found = over_grpc(stub, Request("serving_default", CLIPS, None))
    assert_same(found["embedding"], expected)
