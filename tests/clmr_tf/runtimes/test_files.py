"""Files for other runtimes: they give what the encoder gives, and one that does not is not kept."""

import hashlib
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow as tf

import clmr_tf.runtimes.files as module
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.export import ExportConfig, export
from clmr_tf.model_folder import record_score, write_manifest
from clmr_tf.model_manifest import read_manifest
from clmr_tf.runtimes.execution import load
from clmr_tf.runtimes.files import add_runtime_files, require_converters
from clmr_tf.runtimes.formats import FORMATS
from tests.clmr_tf.probed import CLIP, write_tiny_model
from tests.clmr_tf.runtimes import tagged
from tests.clmr_tf.runtimes.tagged import embedding_of_music, music, write_probe
from tests.synthetic import melody

needs_litert = pytest.mark.skipif(module.version_of("ai-edge-litert") is None, reason="needs ai-edge-litert")
needs_onnx = pytest.mark.skipif(
    None in (module.version_of("onnxruntime"), module.version_of("tf2onnx")), reason="needs onnxruntime and tf2onnx"
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model folder that had a file for another runtime, with a head since then and every file that can be written."""
    folder = write_tiny_model(tagged.model(), tmp_path_factory.mktemp("exported") / "tiny")
    (folder / "model.tflite").write_bytes(b"of the model without a head")
    kinds = "fp16,int8"
    has_onnx = module.version_of("tf2onnx") is not None
    export(ExportConfig(model=folder, head=write_probe(folder.parent), tflite=kinds, onnx=has_onnx))
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of it without any such file, to change."""
    copy = Path(shutil.copytree(exported, tmp_path / "model", ignore=shutil.ignore_patterns("model*")))
    manifest = read_manifest(copy)
    del manifest["runtimes"]
    write_manifest(copy, manifest)
    return copy


def tags_of(folder: Path, embedding: np.ndarray) -> np.ndarray:
    return tagged.tags_by_definition(folder / "head.npz", True, embedding)


@pytest.mark.parametrize(
    ("kind", "largest_error", "least_cosine", "largest_tag_error"),
    [
        pytest.param("fp32", 1e-4, 0.99999, 1e-5, marks=needs_litert),
        pytest.param("fp16", 1e-3, 0.99999, 5e-3, marks=needs_litert),
        pytest.param("int8", 0.1, 0.995, 0.05, marks=needs_litert),
        pytest.param("onnx", 1e-4, 0.99999, 1e-5, marks=needs_onnx),
    ],
)
def test_a_file_gives_what_encoder_and_head_give_for_music_in_any_batch(
    exported, kind, largest_error, least_cosine, largest_tag_error
):
    run = load(exported / FORMATS[kind].file, num_threads=1)
    audio, expected = music(), embedding_of_music()
    expected_tags = tags_of(exported, expected)
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
        np.testing.assert_allclose(outputs["tags"], tags_of(exported, outputs["embedding"]), atol=own_error)


def test_the_manifest_describes_every_file_and_the_weights_are_in_it(exported):
    described = read_manifest(exported)["runtimes"]
    assert {"model.tflite", "model-fp16.tflite", "model-int8.tflite"} <= set(described)
    assert set(described) == {path.name for path in exported.glob("model*")}
    for kind, wanted in FORMATS.items():
        if wanted.file not in described:
            assert kind == "onnx"
            continue
        content, facts = (exported / wanted.file).read_bytes(), described[wanted.file]
        assert facts["num_bytes"] == len(content) and facts["sha256"] == hashlib.sha256(content).hexdigest()
        num_bytes = wanted.bytes_per_weight * 816_784 + wanted.bytes_per_head_weight * tagged.NUM_HEAD_WEIGHTS
        assert 1 <= len(content) / num_bytes < 1.1
        assert facts["outputs"] == ["embedding", "tags"]
        assert 0 <= facts["largest_tag_error"] <= {"fp16": 5e-3, "int8": 0.05}.get(kind, 1e-5)
        assert 0 <= facts["largest_head_error"] <= (2e-3 if kind == "fp16" else 1e-5)
        version = module.version_of(wanted.runtime)
        assert facts["checked_with"] == (version and f"{wanted.runtime} {version}")
    assert not list(exported.glob(".*")), "the export has left a draft"


def test_the_code_of_the_model_card_runs_and_gives_the_tags(exported, monkeypatch):
    card = (exported / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    present = [name for name in ("ai_edge_litert", "onnxruntime") if f"{name}" in card]
    assert len(blocks) == 2 + len(present)
    monkeypatch.chdir(exported)
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
                np.testing.assert_allclose(tags, tags_of(exported, embedding_of_music()), atol=1e-5)
            if "tags" in names:
                of_clips = tags_of(exported, np.load("golden.npz")["embedding"])
                np.testing.assert_allclose(names["tags"], of_clips, atol=0.05)
                assert names["likeliest"] == [tagged.TAGS[column] for column in of_clips.argmax(axis=1)]
                with_tags += 1
    finally:
        Path("song.mp3").unlink()
    assert with_tags == len(present)


def test_a_score_comes_into_the_card_beside_what_was_there(exported, tmp_path):
    folder = Path(shutil.copytree(exported, tmp_path / "model"))
    before = (folder / "README.md").read_text(encoding="utf-8")
    record_score(folder, "demo", {"metric": "accuracy", "split": "test", "score": 0.625, "interval": [0.4, 0.8]})
    after = (folder / "README.md").read_text(encoding="utf-8")
    assert "| demo | test | accuracy | 0.625 | 0.400 to 0.800 |" in after and "None is recorded yet" in before
    assert before.partition("## Limits")[2] == after.partition("## Limits")[2]


def stand_in(folder: Path, script: str, monkeypatch) -> None:
    """Puts a shell script in the place of Python: no model is known for which a converter really aborts."""
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nmodule=$2; model=$3; out=$4; shift 4\n{script}\nexec {sys.executable} "$0"\n')
    python.chmod(0o755)
    monkeypatch.setattr(module.sys, "executable", str(python))


@needs_litert
def test_a_converter_that_aborts_takes_only_its_own_file_along(exported, folder, tmp_path, monkeypatch):
    script = f"""
if [ $module = clmr_tf.runtimes.execution ]; then exec {sys.executable} -m $module $model $out "$@"; fi
for kind in "$@"; do
    case $kind in
        fp32) cp {exported}/model.tflite $out ;;
        fp16) echo LLVM ERROR: no such type >&2; kill -ABRT $$ ;;
        int8) cp {exported}/model-int8.tflite $out ;;
    esac
done
exit 0"""
    stand_in(tmp_path, script, monkeypatch)
    expected = r"model-fp16\.tflite could not be made: its process was ended by SIGABRT: LLVM ERROR: no such type"
    with pytest.raises(ClmrError, match=expected) as error:
        add_runtime_files(folder, ["fp32", "fp16", "int8"])
    assert "model.tflite" not in str(error.value) and "int8" not in str(error.value)
    assert {path.name for path in folder.glob("model*")} == {"model.tflite", "model-int8.tflite"}
    assert set(read_manifest(folder)["runtimes"]) == {"model.tflite", "model-int8.tflite"}


@needs_litert
@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda content: content[:57_000], "has 57000 bytes"),
        (lambda content: b"\0" * len(content), "cannot be run by ai-edge-litert"),
        # The first bytes of the last weights become those of NaN.
        (lambda content: content.replace(content[2_000_000:2_000_004], b"\0\0\xc0\x7f"), "is not finite"),
        (lambda content: content[:1_000_000] + content[1_000_000:1_400_000][::-1] + content[1_400_000:], "differ by"),
    ],
    ids=["truncated", "empty", "not-finite", "other-weights"],
)
def test_a_wrong_file_is_not_kept(exported, folder, tmp_path, monkeypatch, damage, complaint):
    (tmp_path / "wrong.tflite").write_bytes(damage((exported / "model.tflite").read_bytes()))
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    script = f"""
if [ $module = clmr_tf.runtimes.execution ]; then exec {sys.executable} -m $module $model $out "$@"; fi
cp {tmp_path}/wrong.tflite $out/model.tflite; exit 0"""
    stand_in(tmp_path, script, monkeypatch)
    with pytest.raises(ClmrError, match=complaint):
        add_runtime_files(folder, ["fp32"])
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_file_whose_runtime_is_absent_is_kept_and_said_not_to_be_checked(
    exported, folder, tmp_path, monkeypatch, caplog
):
    def version(package: str) -> str:
        if package == "ai-edge-litert":
            raise metadata.PackageNotFoundError
        return "1.0"

    monkeypatch.setattr(module.metadata, "version", version)
    stand_in(tmp_path, f"cp {exported}/model.tflite $out; exit 0", monkeypatch)
    add_runtime_files(folder, ["fp32"])
    assert "model.tflite is not checked, since ai-edge-litert is not installed" in caplog.text
    assert read_manifest(folder)["runtimes"]["model.tflite"]["checked_with"] is None
    assert "`model.tflite` has not been run" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_new_head_leaves_no_file_of_the_old_one(exported, folder, tmp_path, monkeypatch, capsys):
    for name in ("model-int8.tflite", "model.onnx"):
        (folder / name).write_bytes(b"with the tags of the old head")
    config, made = ExportConfig(model=folder, head=write_probe(tmp_path), tflite="fp16"), []
    monkeypatch.setattr("clmr_tf.export._add_to_folder", lambda folder, config: folder)
    monkeypatch.setattr(module, "add_runtime_files", lambda folder, kinds: made.extend(kinds))
    monkeypatch.setattr(module, "version_of", lambda package: "1.0")
    export(config)
    assert made == ["fp16", "int8", "onnx"]
    expected = "Making model-int8.tflite and model.onnx anew, with the tags of the new head."
    assert expected in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(module, "version_of", lambda package: None)
    with pytest.raises(UsageError, match=r"model\.onnx needs tf2onnx and onnx"):
        export(config)
    assert made == ["fp16", "int8", "onnx"]


def test_what_cannot_be_written_is_refused_before_anything_is(folder, monkeypatch):
    monkeypatch.setattr(module, "version_of", lambda package: None)
    with pytest.raises(UsageError, match=r"model\.onnx needs tf2onnx and onnx, which are not installed"):
        require_converters(["fp32", "onnx"])
    with pytest.raises(UsageError, match=r"fp32, fp16 and int8 .* received 'fp64'"):
        ExportConfig(tflite="fp64")
    with pytest.raises(UsageError, match="is exported already"):
        export(ExportConfig(model=folder))


@needs_litert
def test_the_check_runs_without_tensorflow(exported, tmp_path):
    code = "import sys; from clmr_tf.runtimes.execution import main; main(sys.argv[1:]); print(*sys.modules)"
    command = [sys.executable, "-c", code, exported / "model.tflite", exported / "golden.npz", tmp_path / "out.npz"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "ai_edge_litert.interpreter" in done.stdout.split() and "tensorflow" not in done.stdout.split()
    with np.load(tmp_path / "out.npz") as outputs:
        # Two clips together, and the first one alone.
        assert {name: rows.shape for name, rows in outputs.items()} == {"embedding": (3, 512), "tags": (3, 3)}
