"""A file that cannot be made, is wrong, or cannot be checked, in the processes that make and check it."""

import sys
from importlib import metadata
from pathlib import Path

import pytest

import clmr_tf.export.runtimes as module
from clmr_tf.errors import ClmrError
from clmr_tf.export.model_folder import read_manifest
from clmr_tf.export.runtimes import add_runtime_files

needs_litert = pytest.mark.skipif(module.version_of("ai-edge-litert") is None, reason="needs ai-edge-litert")


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
    expected = r"model-fp16\.tflite could not be made: its process was killed by SIGABRT: LLVM ERROR: no such type"
    with pytest.raises(ClmrError, match=expected) as error:
        add_runtime_files(without_runtimes, ["fp32", "fp16", "int8"])
    assert "model.tflite" not in str(error.value) and "int8" not in str(error.value)
    assert {path.name for path in without_runtimes.glob("model*")} == {"model.tflite", "model-int8.tflite"}
    assert set(read_manifest(without_runtimes)["runtimes"]) == {"model.tflite", "model-int8.tflite"}


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
    monkeypatch.setattr(module, "_TIMEOUT_SECONDS", 30)
    expected = r"model-fp16\.tflite could not be made: its process was stopped after 30 seconds"
    with pytest.raises(ClmrError, match=expected) as error:
        add_runtime_files(without_runtimes, ["fp32", "fp16"])
    assert "model.tflite" not in str(error.value)
    assert {path.name for path in without_runtimes.glob("model*")} == {"model.tflite"}


@needs_litert
@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda content: content[:57_000], "has 57000 bytes"),
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


def test_a_file_without_its_runtime_is_kept_with_a_warning(
    with_runtimes, without_runtimes, tmp_path, monkeypatch, caplog
):
    def version(package: str) -> str:
        if package == "ai-edge-litert":
            raise metadata.PackageNotFoundError
        return "1.0"

    monkeypatch.setattr(module.metadata, "version", version)
    stand_in(tmp_path, f"cp {with_runtimes}/model.tflite $out; exit 0", monkeypatch)
    add_runtime_files(without_runtimes, ["fp32"])
    assert "model.tflite was not checked, because ai-edge-litert is not installed" in caplog.text
    assert read_manifest(without_runtimes)["runtimes"]["model.tflite"]["checked_with"] is None
    assert "`model.tflite` has not been checked" in (without_runtimes / "README.md").read_text(encoding="utf-8")
