"""TensorFlow Serving's protocol: an independent client asks the exported model and gets the encoder's numbers."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import requests
import soxr

from clmr_tf.export.model_folder import SAVED_MODEL
from tests.clmr_tf.exported import RATE_HZ, SONG, TAGS, assert_same, tags_of, wav
from tests.clmr_tf.probed import CLIP

pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api")
ovmsclient = pytest.importorskip("ovmsclient", reason="needs ovmsclient")

CLIPS = SONG[: 2 * CLIP].reshape(2, CLIP)
# A 16-bit stereo file at another rate, and its mono mix.
STEREO = wav(np.stack([both := soxr.resample(SONG, RATE_HZ, 44_100, "VHQ"), 0.5 * both], 1), 44_100)


@pytest.fixture(scope="module")
def server(exported):
    from tests.clmr_tf.export.protocol_server import ProtocolServer

    with ProtocolServer(exported.folder / SAVED_MODEL, "tiny") as server:
        yield server


@pytest.fixture
def grpc_client(server):
    client = ovmsclient.make_grpc_client(server.grpc_address)
    yield client
    client.channel.close()


@pytest.fixture
def http_client(server):
    client = ovmsclient.make_http_client(server.rest_address)
    yield client
    client.session.close()


@pytest.fixture(params=["grpc_client", "http_client"])
def client(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def ask(grpc_client):
    """Asks for any signature over gRPC; the client by itself asks for `serving_default` only."""
    from ovmsclient.tfs_compat.grpc.requests import make_predict_request
    from ovmsclient.tfs_compat.grpc.responses import GrpcPredictResponse

    def ask(signature: str, inputs: dict, outputs: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
        message = make_predict_request(inputs, "tiny").raw_request
        message.model_spec.signature_name = signature
        message.output_filter.extend(outputs)
        return GrpcPredictResponse(grpc_client.prediction_service_stub.Predict(message, 60)).to_dict()["outputs"]

    return ask


@pytest.fixture
def post(server):
    def post(body: dict | bytes) -> requests.Response:
        data = body if isinstance(body, bytes) else json.dumps(body)
        return requests.post(f"http://{server.rest_address}/v1/models/tiny:predict", data=data, timeout=60)

    return post


def b64(content: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(content).decode()}


def test_clips_give_the_encoders_outputs_by_name(exported, client):
    outputs = client.predict({"audio": CLIPS}, "tiny")
    expected = exported.encoder.encode_clips(CLIPS)
    assert set(outputs) == {"embedding", "tags"}
    assert_same(outputs["embedding"], expected)
    assert_same(outputs["tags"], tags_of(expected))


def test_the_status_is_available(client):
    (status,) = client.get_model_status("tiny").values()
    assert status["state"] == "AVAILABLE" and status["error_code"] == 0


def test_the_metadata_have_all_signatures(server, grpc_client):
    metadata = grpc_client.get_model_metadata("tiny")
    assert metadata["inputs"] == {"audio": {"shape": [-1, CLIP], "dtype": "DT_FLOAT"}}
    assert metadata["outputs"] == {
        "embedding": {"shape": [-1, 512], "dtype": "DT_FLOAT"},
        "tags": {"shape": [-1, 3], "dtype": "DT_FLOAT"},
    }
    metadata = requests.get(f"http://{server.rest_address}/v1/models/tiny/metadata", timeout=60).json()["metadata"]
    signatures = metadata["signature_def"]["signature_def"]
    assert {name: list(one["inputs"]) for name, one in signatures.items() if not name.startswith("__")} == {
        "serving_default": ["audio"],
        "waveform": ["audio"],
        "wav_bytes": ["wav"],
        "tag_names": [],
    }


def test_a_recording_and_files_give_the_encoders_numbers_over_grpc(exported, ask):
    expected = exported.encoder.embed(SONG)
    found = ask("waveform", {"audio": SONG})
    assert_same(found["embeddings"], expected.vectors)
    assert_same(found["tags"], tags_of(expected.vectors).mean(axis=0))
    assert_same(found["times_seconds"], expected.times_seconds)
    # Of one output, the client gives the array by itself.
    assert_same(ask("waveform", {"audio": SONG}, ("embedding",)), expected.vectors.mean(axis=0))
    of_file = ask("wav_bytes", {"wav": np.array([STEREO], object).astype("S")})
    heard = exported.encoder.embed(0.75 * both, sample_rate=44_100).vectors
    assert_same(of_file["embeddings"][0], heard, tolerance=5e-3)
    assert ask("tag_names", {}).astype(str).tolist() == TAGS


def test_rows_and_columns_of_files_give_the_encoders_numbers_over_rest(exported, post):
    heard = exported.encoder.embed(0.75 * both, sample_rate=44_100).vectors
    for inputs in ([b64(STEREO)], {"wav": [b64(STEREO)]}):
        outputs = post({"signature_name": "wav_bytes", "inputs": inputs}).json()["outputs"]
        assert outputs["num_windows"] == [2]
        assert_same(outputs["embeddings"], heard[None], tolerance=5e-3)
        assert_same(outputs["tags"], tags_of(heard).mean(axis=0)[None], tolerance=5e-3)
    for instances in ([b64(STEREO)] * 2, [{"wav": b64(STEREO)}] * 2):
        predictions = post({"signature_name": "wav_bytes", "instances": instances}).json()["predictions"]
        assert len(predictions) == 2
        for row in predictions:
            assert_same(row["embedding"], heard.mean(axis=0), tolerance=5e-3)
    by_rows = post({"instances": CLIPS.tolist()}).json()["predictions"]
    assert_same([row["embedding"] for row in by_rows], exported.encoder.encode_clips(CLIPS))


def test_bad_input_gets_an_error_and_the_server_goes_on(exported, client):
    for inputs in (
        {"audio": np.zeros((1, CLIP - 1), np.float32)},
        {"sound": CLIPS},
        {"audio": np.zeros(3, np.float32)},
    ):
        with pytest.raises(ovmsclient.InvalidInputError):
            client.predict(inputs, "tiny")
    for model, version in (("unknown", 0), ("tiny", 7)):
        with pytest.raises(ovmsclient.ModelNotFoundError):
            client.predict({"audio": CLIPS}, model, version)
    assert_same(client.predict({"audio": CLIPS}, "tiny")["embedding"], exported.encoder.encode_clips(CLIPS))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"signature_name": "wav_bytes", "inputs": [b64(b"ID3 is no WAV")]}, "is not a WAV file; send 16-bit PCM WAV"),
        ({"signature_name": "wav_bytes", "inputs": ["no base64"]}, "is not a WAV file"),
        ({"signature_name": "unknown", "inputs": []}, '"unknown" not found'),
        ({"instances": [], "inputs": []}, "one of"),
        ({"signature_name": "waveform", "instances": [0.0] * CLIP}, "use 'inputs'"),
        ({"inputs": [[0.0], [0.0, 0.0]]}, ""),
        (b"{", ""),
    ],
)
def test_a_bad_body_gets_status_400_and_a_sentence(post, body, words):
    response = post(body)
    assert response.status_code == 400 and words in response.json()["error"]


def test_a_bad_file_is_refused_over_grpc(ask):
    with pytest.raises(grpc.RpcError, match="is not a WAV file") as error:
        ask("wav_bytes", {"wav": np.array([b"OggS"])})
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_concurrent_requests_get_their_own_answers(exported, client):
    clips = np.stack([np.roll(CLIPS[0], 997 * shift) for shift in range(8)])
    expected = exported.encoder.encode_clips(clips)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * np.abs(expected).max()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda clip: client.predict({"audio": clip[None]}, "tiny", timeout=60), clips))
    for row, outputs in enumerate(found):
        assert_same(outputs["embedding"], expected[row : row + 1])
