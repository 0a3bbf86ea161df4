"""The configuration files for tensorflow_model_server, read as it reads them, and what docs/serving.md says to type."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

from clmr_tf.export.model_folder import SAVED_MODEL
from tests.clmr_tf.exported import RATE_HZ, SONG, assert_same
from tests.clmr_tf.probed import CLIP

ROOT = Path(__file__).parents[3]
FILES = ROOT / "savedmodels" / "serving"
DOCUMENT = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def batching_parameters():
    """The message BatchingParameters of TensorFlow Serving's session_bundle_config.proto, but for a name.

    tensorflow-serving-api comes without this one.
    """
    file = descriptor_pb2.FileDescriptorProto(name="batching_parameters.proto", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    message = file.message_type.add(name="BatchingParameters")
    kinds = descriptor_pb2.FieldDescriptorProto
    numbers = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    wrapped = {
        **dict.fromkeys(numbers, ".google.protobuf.Int64Value"),
        "thread_pool_name": ".google.protobuf.StringValue",
    }
    for number, (name, kind) in enumerate(wrapped.items(), start=1):
        message.field.add(name=name, number=number, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_MESSAGE, type_name=kind)
    message.field.add(name="allowed_batch_sizes", number=6, label=kinds.LABEL_REPEATED, type=kinds.TYPE_INT64)
    message.field.add(name="pad_variable_length_inputs", number=7, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_BOOL)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("BatchingParameters"))()


def test_the_batching_parameters_are_whole():
    batching = text_format.Parse((FILES / "batching.config").read_text(encoding="utf-8"), batching_parameters())
    assert batching.max_batch_size.value == 16 and batching.num_batch_threads.value >= 1
    assert 0 < batching.batch_timeout_micros.value <= 100_000 and batching.max_enqueued_batches.value > 0
    # Padding would put samples behind a recording, and sizes would compute the first clip again.
    assert not batching.pad_variable_length_inputs and not batching.allowed_batch_sizes


def test_the_models_are_where_the_command_mounts_them():
    config = pytest.importorskip(
        "tensorflow_serving.config.model_server_config_pb2", reason="needs tensorflow-serving-api"
    )
    text = (FILES / "models.config").read_text(encoding="utf-8")
    (model,) = text_format.Parse(text, config.ModelServerConfig()).model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("music-small", "/models/music-small", "tensorflow")
    mounts = dict(re.findall(r'type=bind,source="\$PWD/([^"]+)",target=([^,\s]+)', DOCUMENT))
    # A model's folder holds one of its versions, which is named by a number.
    assert mounts[f"savedmodels/{model.name}/{SAVED_MODEL}"] == f"{model.base_path}/1"
    flags = re.findall(r"--(model_config_file|batching_parameters_file)=(\S+)", DOCUMENT)
    assert {name for name, _ in flags} == {"model_config_file", "batching_parameters_file"}
    for _, path in flags:
        assert path.startswith(mounts["savedmodels/serving"]) and (FILES / Path(path).name).is_file()


@pytest.fixture(scope="module")
def server(exported):
    pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api")
    from tests.clmr_tf.export.protocol_server import ProtocolServer

    with ProtocolServer(exported.folder / SAVED_MODEL, "music-small") as server:
        yield server


def block(language: str, word: str) -> str:
    (code,) = [code for code in re.findall(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.DOTALL) if word in code]
    return code


@pytest.mark.skipif(None in map(shutil.which, ("curl", "base64", "bash")), reason="needs curl and base64")
def test_the_request_of_the_document_gives_the_embedding_of_a_file(exported, server, tmp_path):
    soundfile.write(tmp_path / "song.wav", SONG, RATE_HZ, subtype="PCM_16")
    command = block("sh", "curl").replace("localhost:8501", server.rest_address)
    done = subprocess.run(["bash", "-ec", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    outputs = json.loads(done.stdout)["outputs"]
    assert_same(outputs["embeddings"], exported.encoder.embed(SONG).vectors[None], tolerance=1e-3)


def test_the_client_of_the_document_gives_the_embeddings_of_clips(exported, server, tmp_path, monkeypatch):
    pytest.importorskip("ovmsclient", reason="needs ovmsclient")
    clips = SONG[: 2 * CLIP].reshape(2, CLIP)
    names = {"clips": clips}
    exec(block("python", "ovmsclient").replace("localhost:8500", server.grpc_address), names)
    assert_same(names["embedding"], exported.encoder.encode_clips(clips))
    names["client"].channel.close()
    assert np.isfinite(names["outputs"]["tags"]).all()
