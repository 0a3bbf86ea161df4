"""What else reads an exported SavedModel, in processes that this package is not loaded into."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from clmr_tf.export.model_folder import SAVED_MODEL
from tests.clmr_tf.exported import RATE_HZ, SONG, assert_same, tags_of, wav
from tests.clmr_tf.probed import CLIP

CLIPS = SONG[: 2 * CLIP].reshape(2, CLIP)
# One process for all, since starting TensorFlow takes longer than what is asked of it.
SAVED_MODEL_CLI = """
import json, sys
from tensorflow.python.tools.saved_model_cli import main

for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as end:
        assert not end.code
"""
# Where a processor has bfloat16, OpenVINO takes it if nothing else is said.
OPENVINO = """
import sys
import numpy as np, openvino

model = openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
outputs = model({"audio": np.load("audio.npy")})
np.savez("outputs.npz", **{name: outputs[name] for name in ("embedding", "tags")})
assert "tensorflow" not in sys.modules
"""


@pytest.fixture
def run(tmp_path):
    """Runs code where every import of this package fails, and returns what it printed."""
    (tmp_path / "clmr_tf.py").write_text("raise ImportError('not here')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(code: str, argument: str) -> str:
        command = [sys.executable, "-c", code, argument]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def saved_model(exported) -> Path:
    return exported.folder / SAVED_MODEL


@pytest.mark.soak
def test_tensorflows_own_command_shows_and_runs_the_model(exported, saved_model, run, tmp_path):
    np.save(tmp_path / "audio.npy", CLIPS)
    # An array of bytes would lose the zeros at their end.
    np.save(tmp_path / "wav.npy", np.array([wav(SONG, RATE_HZ)], object), allow_pickle=True)
    model = ["--dir", str(saved_model), "--tag_set", "serve"]
    commands = [["show", *model], ["show", *model, "--signature_def", "wav_bytes"]]
    for signature, name in (("serving_default", "audio"), ("wav_bytes", "wav")):
        arguments = ["--signature_def", signature, "--inputs", f"{name}={name}.npy", "--outdir", signature]
        commands.append(["run", *model, *arguments])
    printed = run(SAVED_MODEL_CLI, json.dumps(commands))
    for signature in ("serving_default", "waveform", "wav_bytes", "tag_names"):
        assert f'SignatureDef key: "{signature}"' in printed
    assert "inputs['wav']" in printed and "outputs['tags_of_windows']" in printed and "shape: (-1, -1, 512)" in printed
    expected = exported.encoder.encode_clips(CLIPS)
    assert_same(np.load(tmp_path / "serving_default/embedding.npy"), expected)
    assert_same(np.load(tmp_path / "serving_default/tags.npy"), tags_of(expected))
    # 16 bits are 1.5e-5 of rounding.
    assert_same(np.load(tmp_path / "wav_bytes/embeddings.npy"), expected[None], tolerance=1e-3)


@pytest.mark.skipif(find_spec("openvino") is None, reason="needs openvino")
def test_openvino_reads_the_saved_model(exported, saved_model, run, tmp_path):
    np.save(tmp_path / "audio.npy", CLIPS)
    run(OPENVINO, str(saved_model))
    expected = exported.encoder.encode_clips(CLIPS)
    with np.load(tmp_path / "outputs.npz") as outputs:
        assert_same(outputs["embedding"], expected)
        assert_same(outputs["tags"], tags_of(expected))


@pytest.mark.parametrize("received", [np.full((2, 3), np.nan), np.ones((2, 2)), np.full((2, 3), 1.001)])
def test_the_comparison_refuses_nan_another_shape_and_other_numbers(received):
    assert_same(np.full((2, 3), 1.00001), np.ones((2, 3)))
    with pytest.raises(AssertionError):
        assert_same(received, np.ones((2, 3)))
