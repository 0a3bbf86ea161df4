"""TensorFlow Serving's protocol for one SavedModel, over gRPC and REST: what clients see of tensorflow_model_server.

The gRPC services are the official ones of tensorflow-serving-api; the REST forms are those of TensorFlow Serving's
api_rest.md. Only for tests: nothing is batched or measured.
"""

import base64
import inspect
import json
import re
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.apis.status_pb2 import StatusProto

_VERSION = 1
# protobuf 4 has the older name, 5 and later the other.
_ALL_FIELDS = {
    name: True
    for name in inspect.signature(MessageToDict).parameters
    if name in ("including_default_value_fields", "always_print_fields_with_no_presence")
}
_HTTP_STATUS = {grpc.StatusCode.INVALID_ARGUMENT: 400, grpc.StatusCode.NOT_FOUND: 404}
_PATH = re.compile(r"/v1/models/(?P<name>[^/:]+)(/versions/(?P<version>\d+))?(?P<rest>:predict|/metadata)?$")


class RefusedError(Exception):
    """A request that gets an error for an answer."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class ServedFolder:
    """A SavedModel as both protocols need it."""

    def __init__(self, saved_model: Path, name: str) -> None:
        self.name = name
        self._saved = tf.saved_model.load(str(saved_model))
        proto = saved_model_pb2.SavedModel.FromString((saved_model / "saved_model.pb").read_bytes())
        self.signature_defs = proto.meta_graphs[0].signature_def

    def require(self, name: str, version: int) -> None:
        # Version 0 is the latest.
        if name != self.name or version not in (0, _VERSION):
            raise RefusedError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {name}, version {version}")

    def inputs_of(self, signature: str) -> dict[str, tf.TensorSpec]:
        if signature not in self._saved.signatures:
            raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, f'Serving signature key "{signature}" not found.')
        return self._saved.signatures[signature].structured_input_signature[1]

    def predict(self, signature: str, inputs: Mapping[str, Any], wanted: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
        specs = self.inputs_of(signature)
        if set(inputs) != set(specs):
            raise RefusedError(
                grpc.StatusCode.INVALID_ARGUMENT, f"inputs must be {sorted(specs)}, not {sorted(inputs)}"
            )
        try:
            tensors = {name: tf.constant(inputs[name], spec.dtype) for name, spec in specs.items()}
            # As the real server, which does not compare shapes with the signature's.
            outputs = self._saved.signatures[signature](**tensors)
        except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
            raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error
        return {name: value.numpy() for name, value in outputs.items() if not wanted or name in wanted}

    def status(self) -> get_model_status_pb2.GetModelStatusResponse:
        status = get_model_status_pb2.ModelVersionStatus
        return get_model_status_pb2.GetModelStatusResponse(
            model_version_status=[status(version=_VERSION, state=status.AVAILABLE, status=StatusProto())]
        )

    def metadata(self) -> get_model_metadata_pb2.GetModelMetadataResponse:
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name, response.model_spec.version.value = self.name, _VERSION
        definitions = get_model_metadata_pb2.SignatureDefMap(signature_def=self.signature_defs)
        response.metadata["signature_def"].Pack(definitions)
        return response


class _Services(prediction_service_pb2_grpc.PredictionServiceServicer, model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, model: ServedFolder) -> None:
        self._model = model

    def Predict(self, request, context):  # noqa: N802 - the name in the protocol
        self._require(request, context)
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        try:
            signature = request.model_spec.signature_name or "serving_default"
            outputs = self._model.predict(signature, inputs, tuple(request.output_filter))
        except RefusedError as refusal:
            context.abort(refusal.code, str(refusal))
        response = predict_pb2.PredictResponse()
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response

    def GetModelMetadata(self, request, context):  # noqa: N802
        self._require(request, context)
        return self._model.metadata()

    def GetModelStatus(self, request, context):  # noqa: N802
        self._require(request, context)
        return self._model.status()

    def _require(self, request, context) -> None:
        try:
            self._model.require(request.model_spec.name, request.model_spec.version.value)
        except RefusedError as refusal:
            context.abort(refusal.code, str(refusal))


class _Handler(BaseHTTPRequestHandler):
    model: ServedFolder

    def do_GET(self) -> None:
        self._answer(lambda rest: _message(self.model.metadata() if rest else self.model.status()))

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(lambda rest: self._predict(json.loads(content)))

    def log_message(self, *_arguments) -> None:
        pass

    def _answer(self, respond) -> None:
        try:
            path = _PATH.match(self.path)
            if not path:
                raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, f"Malformed request: {self.path}")
            self.model.require(path["name"], int(path["version"] or 0))
            status, answer = 200, respond(path["rest"])
        except (RefusedError, ValueError, KeyError) as error:
            status = _HTTP_STATUS[getattr(error, "code", grpc.StatusCode.INVALID_ARGUMENT)]
            answer = {"error": str(error)}
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _predict(self, request: dict[str, Any]) -> dict[str, Any]:
        signature = request.get("signature_name", "serving_default")
        by_rows, names = "instances" in request, list(self.model.inputs_of(signature))
        if by_rows == ("inputs" in request):
            raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "Expecting one of 'inputs' and 'instances'")
        values = _decoded(request["instances" if by_rows else "inputs"])
        if by_rows and isinstance(values[0], dict):
            values = {name: [row[name] for row in values] for name in names}
        elif not isinstance(values, dict):
            values = {names[0]: values}
        outputs = {name: _jsonable(value) for name, value in self.model.predict(signature, values).items()}
        if not by_rows:
            return {"outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))}
        if not all(isinstance(rows, list) for rows in outputs.values()) or len(set(map(len, outputs.values()))) > 1:
            raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "Outputs have no common batch size; use 'inputs'")
        rows = zip(*outputs.values(), strict=True)
        return {"predictions": [dict(zip(outputs, row, strict=True)) if len(outputs) > 1 else row[0] for row in rows]}


def _message(message: Message) -> dict[str, Any]:
    return MessageToDict(message, **_ALL_FIELDS, preserving_proto_field_name=True)


def _decoded(value: Any) -> Any:
    """JSON with {"b64": ...} replaced by the bytes that it stands for."""
    if isinstance(value, dict):
        is_bytes = list(value) == ["b64"]
        return base64.b64decode(value["b64"]) if is_bytes else {name: _decoded(one) for name, one in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict | list):
        return [_decoded(one) for one in value]
    return value


def _jsonable(value: np.ndarray | bytes) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return [_jsonable(one) for one in value] if value.dtype == object else value.tolist()


class ProtocolServer:
    """Serves while it is entered, on ports of localhost that were free.

    Attributes:
        grpc_address: "localhost:port".
        rest_address: The same of REST.
    """

    def __init__(self, saved_model: Path, name: str, num_threads: int = 4) -> None:
        model = ServedFolder(saved_model, name)
        self._grpc = grpc.server(ThreadPoolExecutor(num_threads), options=[("grpc.max_receive_message_length", -1)])
        services = _Services(model)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(services, self._grpc)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(services, self._grpc)
        self.grpc_address = f"localhost:{self._grpc.add_insecure_port('localhost:0')}"
        handler = type("Handler", (_Handler,), {"model": model})
        self._rest = ThreadingHTTPServer(("localhost", 0), handler)
        self.rest_address = f"localhost:{self._rest.server_port}"

    def __enter__(self) -> "ProtocolServer":
        self._grpc.start()
        threading.Thread(target=self._rest.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_error) -> None:
        self._grpc.stop(grace=None).wait()
        self._rest.shutdown()
        self._rest.server_close()
