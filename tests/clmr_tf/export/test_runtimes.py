"""Files for other runtimes give the encoder's outputs; wrong ones, and failing converters, are refused one by one."""

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow as tf

import clmr_tf.export.runtimes as module
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.export.__main__ import ExportConfig, export
from clmr_tf.export.model_card import record_score
from clmr_tf.export.model_folder import read_manifest
from clmr_tf.export.runtime_formats import FORMATS
from clmr_tf.export.runtime_process import load
from clmr_tf.export.runtimes import add_runtime_files, require_packages
from tests.clmr_tf.exported import (
    PROBE_TAGS,
    embedding_of_music,
    music,
    tags_by_definition,
    write_probe,
)
from tests.clmr_tf.probed import CLIP
from tests.synthetic import melody

needs_litert = pytest.mark.skipif(module.version_of("ai-edge-litert") is None, reason="needs ai-edge-litert")
needs_onnx = pytest.mark.skipif(
    None in (module.version_of("onnxruntime"), module.version_of("tf2onnx")), reason="needs onnxruntime and tf2onnx"
)


def tags_of(folder: Path, embedding: np.ndarray) -> np.ndarray:
    return tags_by_definition(folder / "head.npz", True, embedding)


@pytest.mark.parametrize(
    ("kind", "largest_error", "least_cosine", "largest_tag_error"),
    [
        pytest.param("fp32", 1e-4, 0.99999, 1e-5, marks=needs_litert),
        pytest.param("fp16", 1e-3, 0.99999, 5e-3, marks=needs_litert),
        pytest.param("int8", 0.1, 0.995, 0.05, marks=needs_litert),
        pytest.param("onnx", 1e-4, 0.99999, 1e-5, marks=needs_onnx),
    ],
)
def test_a_file_gives_the_outputs_of_encoder_and_head_for_any_batch(
    with_runtimes, kind, largest_error, least_cosine, largest_tag_error
):
    run = load(with_runtimes / FORMATS[kind].file, num_threads=1)
    audio, expected = music(), embedding_of_music()
    expected_tags = tags_of(with_runtimes, expected)
    assert expected_tags.std() > 0.1
    for rows in (slice(0, 3), slice(1, 2), slice(0, 2)):
        outputs = run(audio[rows])
        assert set(outputs) == {"embedding", "tags"} and outputs["embedding"].shape == expected[rows].shape
        assert np.abs(outputs["embedding"] - expected[rows]).max() <= largest_error * expected.max()
        lengths = np.linalg.norm(outputs["embedding"], axis=1) * np.linalg.norm(expected[rows], axis=1)
        assert np.min(np.sum(outputs["embedding"] * expected[rows], axis=1) / lengths) >= least_cosine
        np.testing.assert_allclose(outputs["tags"], expected_tags[rows], rtol=0, atol=largest_tag_error)
        # The head itself loses nothing but where its weights are shorter.
        own_error = 2e-3 if kind == "fp16" else 1e-5
        np.testing.assert_allclose(outputs["tags"], tags_of(with_runtimes, outputs["embedding"]), atol=own_error)


def test_the_manifest_describes_every_file(with_runtimes):
    described = read_manifest(with_runtimes)["runtimes"]
    assert {"model.tflite", "model-fp16.tflite", "model-int8.tflite"} <= set(described)
    assert set(described) == {path.name for path in with_runtimes.glob("model*")}
    for kind, wanted in FORMATS.items():
        if wanted.file not in described:
            assert kind == "onnx"
            continue
        content, metadata = (with_runtimes / wanted.file).read_bytes(), described[wanted.file]
        assert metadata["num_bytes"] == len(content) and metadata["sha256"] == hashlib.sha256(content).hexdigest()
        assert metadata["outputs"] == ["embedding", "tags"]
        assert 0 <= metadata["largest_tag_error"] <= {"fp16": 5e-3, "int8": 0.05}.get(kind, 1e-5)
        assert 0 <= metadata["largest_head_error"] <= (2e-3 if kind == "fp16" else 1e-5)
        assert 1e-5 < metadata["processor_seconds"] < 10
        assert metadata["checked_with"] == f"{wanted.runtime} {module.version_of(wanted.runtime)}"
    assert not list(with_runtimes.glob(".*")), "the export has left a draft"


def test_the_code_of_the_model_card_runs_and_gives_the_tags(with_runtimes, monkeypatch):
    card = (with_runtimes / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    present = [name for name in ("ai_edge_litert", "onnxruntime") if f"{name}" in card]
    assert len(blocks) == 2 + len(present)
    monkeypatch.chdir(with_runtimes)
    soundfile.write("song.mp3", melody(3, 3 * CLIP), 22050)
    with_tags = 0
    try:
        for block in blocks:
            names: dict = {}
            exec(compile(block, "README.md", "exec"), names)
            embedding = names["embedding"]
            assert getattr(embedding, "vectors", embedding).shape[1:] == (512,)
            if "serve" in names:
                tags = names["serve"](audio=tf.constant(music()))["tags"].numpy()
                np.testing.assert_allclose(tags, tags_of(with_runtimes, embedding_of_music()), atol=1e-5)
            if "tags" in names:
                of_clips = tags_of(with_runtimes, np.load("golden.npz")["embedding"])
                np.testing.assert_allclose(names["tags"], of_clips, atol=0.05)
                assert names["likeliest"] == [PROBE_TAGS[column] for column in of_clips.argmax(axis=1)]
                with_tags += 1
    finally:
        Path("song.mp3").unlink()
    assert with_tags == len(present)


def test_a_score_is_added_to_the_card(with_runtimes, tmp_path):
    folder = Path(shutil.copytree(with_runtimes, tmp_path / "model"))
    before = (folder / "README.md").read_text(encoding="utf-8")
    record_score(folder, "demo", {"metric": "accuracy", "split": "test", "mean": 0.625, "interval": [0.4, 0.8]})
    after = (folder / "README.md").read_text(encoding="utf-8")
    assert "| demo | test | accuracy | 0.625 | 0.400 to 0.800 |" in after and "None yet; " in before
    assert before.partition("## Limits")[2] == after.partition("## Limits")[2]


def test_a_new_head_replaces_all_files_of_the_old_one(without_runtimes, tmp_path, monkeypatch, capsys, caplog):
    for name in ("model-int8.tflite", "model.onnx"):
        (without_runtimes / name).write_bytes(b"with the tags of the old head")
    config, made = ExportConfig(model=without_runtimes, head=write_probe(tmp_path), tflite="fp16"), []
    monkeypatch.setattr("clmr_tf.export.__main__._add_to_folder", lambda folder, config: (folder, ["model.onnx"]))
    monkeypatch.setattr(module, "add_runtime_files", lambda folder, kinds: made.extend(kinds))
    monkeypatch.setattr(module, "version_of", lambda package: "1.0")
    export(config)
    assert made == ["fp16", "int8", "onnx"]
    expected = "Writing model-int8.tflite and model.onnx again, with the tags of the new head."
    assert expected in " ".join(capsys.readouterr().err.split()) and "no longer holds" not in caplog.text
    monkeypatch.setattr(module, "version_of", lambda package: None)
    with pytest.raises(UsageError, match=r"To write and check model-fp16\.tflite, install ai-edge-litert"):
        export(config)
    assert made == ["fp16", "int8", "onnx"]


def test_missing_packages_and_wrong_usage_are_refused_first(without_runtimes, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "version_of", lambda package: None if package == "onnxruntime" else "1.0")
    with pytest.raises(UsageError, match=r"To write and check model\.onnx, install onnxruntime \(`pip install onnxr"):
        require_packages(["fp32", "onnx"])
    monkeypatch.setattr(module, "version_of", lambda package: None)
    # A run gets model.tflite by default.
    with pytest.raises(UsageError, match=r"install ai-edge-litert .* leave the file out \(--tflite none\)"):
        export(ExportConfig(model=tmp_path / "run", out=tmp_path / "model"))
    with pytest.raises(UsageError, match=r"fp32, fp16 and int8 .* received 'fp64'"):
        ExportConfig(tflite="fp64")
    with pytest.raises(UsageError, match="is already exported"):
        export(ExportConfig(model=without_runtimes))


@needs_litert
def test_the_check_runs_without_tensorflow(with_runtimes, tmp_path):
    code = "import sys; from clmr_tf.export.runtime_process import main; main(sys.argv[1:]); print(*sys.modules)"
    command = [
        sys.executable,
        "-c",
        code,
        with_runtimes / "model.tflite",
        with_runtimes / "golden.npz",
        tmp_path / "out.npz",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "ai_edge_litert.interpreter" in done.stdout.split() and "tensorflow" not in done.stdout.split()
    with np.load(tmp_path / "out.npz") as outputs:
        # Two clips together, and the first one alone.
        shapes = {name: rows.shape for name, rows in outputs.items()}
        assert shapes == {"embedding": (3, 512), "tags": (3, 3), "processor_seconds": ()}


def stand_in(folder: Path, script: str, monkeypatch) -> None:
    """Puts a shell script in the place of Python: no model is known for which a converter really aborts."""
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nmodule=$2; model=$3; out=$4; shift 4\n{script}\nexec {sys.executable} "$0"\n')
    python.chmod(0o755)
    monkeypatch.setattr(module.sys, "executable", str(python))


@needs_litert
def test_a_converter_that_aborts_loses_only_its_own_file(with_runtimes, without_runtimes, tmp_path, monkeypatch):
    script = f"""
if [ $module = clmr_tf.export.runtime_process ]; then exec {sys.executable} -m $module $model $out "$@"; fi
for kind in "$@"; do
    case $kind in
        fp32) cp {with_runtimes}/model.tflite $out ;;
        fp16) echo LLVM ERROR: no such type >&2; kill -ABRT $$ ;;
        int8) cp {with_runtimes}/model-int8.tflite $out ;;
    esac
done
exit 0"""
    stand_in(tmp_path, script, monkeypatch)
    expected = r"model-fp16\.tflite could not be written: its process was killed by SIGABRT: LLVM ERROR: no such type"
    with pytest.raises(ClmrError, match=expected) as error:
        add_runtime_files(without_runtimes, ["fp32", "fp16", "int8"])
    assert "model.tflite" not in str(error.value) and "int8" not in str(error.value)
    assert {path.name for path in without_runtimes.glob("model*")} == {"model.tflite", "model-int8.tflite"}
    assert set(read_manifest(without_runtimes)["runtimes"]) == {"model.tflite", "model-int8.tflite"}


@pytest.mark.soak
@needs_litert
def test_a_converter_that_hangs_loses_only_its_own_file(with_runtimes, without_runtimes, tmp_path, monkeypatch):
    script = f"""
if [ $module = clmr_tf.export.runtime_process ]; then exec {sys.executable} -m $module $model $out "$@"; fi
if [ $1 = fp16 ]; then exec sleep 600; fi
cp {with_runtimes}/model.tflite $out
if [ "$2" = fp16 ]; then exec sleep 600; fi
exit 0"""
    stand_in(tmp_path, script, monkeypatch)
    # Enough for the runtime, which reads the file in a second.
    monkeypatch.setattr(module, "_TIMEOUT_SECONDS", 8)
    expected = r"model-fp16\.tflite could not be written: its process was stopped after 8 seconds"
    with pytest.raises(ClmrError, match=expected) as error:
        add_runtime_files(without_runtimes, ["fp32", "fp16"])
    assert "model.tflite" not in str(error.value)
    assert {path.name for path in without_runtimes.glob("model*")} == {"model.tflite"}


@needs_litert
@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda content: content[:57_000], "cannot be run by ai-edge-litert"),
        (lambda content: b"\0" * len(content), "cannot be run by ai-edge-litert"),
        # The first bytes of the last weights become those of NaN.
        (lambda content: content.replace(content[2_000_000:2_000_004], b"\0\0\xc0\x7f"), "is not finite"),
        # Two parts exchanged, so that all are still numbers.
        (lambda it: it[:1_000_000] + it[1_200_000:1_400_000] + it[1_000_000:1_200_000] + it[1_400_000:], "differ by"),
    ],
    ids=["truncated", "empty", "not-finite", "other-weights"],
)
def test_a_wrong_file_is_not_kept(with_runtimes, without_runtimes, tmp_path, monkeypatch, damage, complaint):
    (tmp_path / "wrong.tflite").write_bytes(damage((with_runtimes / "model.tflite").read_bytes()))
    before = {path.name: path.read_bytes() for path in without_runtimes.iterdir() if path.is_file()}
    script = f"""
if [ $module = clmr_tf.export.runtime_process ]; then exec {sys.executable} -m $module $model $out "$@"; fi
cp {tmp_path}/wrong.tflite $out/model.tflite; exit 0"""
    stand_in(tmp_path, script, monkeypatch)
    with pytest.raises(ClmrError, match=complaint):
        add_runtime_files(without_runtimes, ["fp32"])
    assert {path.name: path.read_bytes() for path in without_runtimes.iterdir() if path.is_file()} == before
