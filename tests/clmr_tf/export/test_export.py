"""An export never replaces the model of another run, and names every file that it removes."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from clmr_tf.config.train import TrainConfig
from clmr_tf.console import run_command
from clmr_tf.errors import UsageError
from clmr_tf.export import __main__ as command
from clmr_tf.export import runtimes
from clmr_tf.export.__main__ import ExportConfig, export
from clmr_tf.export.model_folder import read_manifest
from clmr_tf.export.writing import require_same_origin
from clmr_tf.inference.encoder import load_encoder
from clmr_tf.train.run import train
from tests.synthetic import synthetic_corpus

pytestmark = pytest.mark.usefixtures("quick_export", "tiny_network")

ROOT = Path(__file__).parents[3]
RUNTIME_ENTRY = {"title": "for LiteRT", "num_bytes": 3, "sha256": "0", "outputs": ["embedding"], "checked_with": "1.0"}
WEB_ENTRY = {"runtime": "LiteRT.js", "source": "bundled", "num_bytes": 4, "num_songs": 0, "checked_with": "1.0"}


def config_of(folder: Path, name: str, **settings) -> TrainConfig:
    quick = {"width": 0.0625, "batch_size": 4, "augmentation": "none", "num_audio_examples": 0, "embeddings_every": 0}
    quick |= {"corpus": str(folder / "melodies"), "validate_every": 0, "steps": 1}
    return TrainConfig(**{**quick, "workdir": folder / "runs" / name, **settings})


@pytest.fixture(scope="module")
def place(tmp_path_factory, quick_export, tiny_network):
    """A folder with two runs that differ by their seeds, and the export of the first."""
    folder = tmp_path_factory.mktemp("place")
    synthetic_corpus(folder / "melodies", num_songs={"train": 4}, num_samples=2_000, tag_names=("a", "b"))
    train(config_of(folder, "one"))
    train(config_of(folder, "two", seed=7))
    export(ExportConfig(model=folder / "runs" / "one", out=folder / "model", tflite="none"))
    return folder


@pytest.fixture
def home(place, tmp_path):
    """A copy, to change."""
    return Path(shutil.copytree(place, tmp_path / "home"))


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def add_files(model: Path) -> None:
    """Files for other runtimes and a probe, as `--tflite fp32 --onnx --web` and `clmr_tf.probe` leave them."""
    manifest = read_manifest(model)
    manifest["web"] = WEB_ENTRY
    manifest["runtimes"] = dict.fromkeys(("model.tflite", "model.onnx"), RUNTIME_ENTRY)
    manifest["scores"] = {"demo": {"metric": "accuracy", "mean": 0.5}}
    (model / "manifest.json").write_text(json.dumps(manifest))
    for name in ("model.tflite", "model.onnx", "retrieval-demo.json"):
        (model / name).write_bytes(name.encode())
    (model / "web").mkdir()
    (model / "web" / "index.html").write_bytes(b"page")


def test_the_model_of_another_run_is_replaced_only_with_overwrite(home, capsys):
    model, other = home / "model", home / "runs" / "two"
    before = content_of(model)
    arguments = ["--model", str(other), "--out", str(model), "--tflite", "none"]
    assert run_command(command.main, arguments) == 2
    assert " ".join(capsys.readouterr().err.split()) == (
        f"error: {model} contains the model of another run or checkpoint; choose another --out, or use --overwrite to "
        "replace it."
    )
    assert content_of(model) == before
    assert run_command(command.main, [*arguments, "--overwrite"]) == 0
    assert read_manifest(model)["training"]["config"]["seed"] == 7
    # From now on it is the model of that run.
    assert run_command(command.main, arguments) == 0


def test_the_defaults_of_export_do_not_replace_another_model(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    shutil.copytree(ROOT / "savedmodels" / "music-small", "savedmodels/demo")
    # As `clmr_tf.train` calls the run of the demo corpus.
    Path("runs/one").rename("runs/demo")
    before = content_of(Path("savedmodels/demo"))
    assert run_command(command.main, []) == 2
    assert "contains the model of another run" in capsys.readouterr().err
    assert content_of(Path("savedmodels/demo")) == before


@pytest.mark.soak
def test_a_model_of_unknown_origin_is_replaced_only_with_overwrite(home):
    config = ExportConfig(model=home / "runs" / "one", out=home / "model", tflite="none")
    (home / "model" / "manifest.json").write_text("{")
    with pytest.raises(UsageError, match=r"of unknown origin .*; choose another --out, or use --overwrite"):
        export(config)
    export(ExportConfig(model=config.model, out=config.out, overwrite=True, tflite="none"))
    load_encoder(config.out, check=True)
    # What else is damaged does not matter.
    (home / "model" / "golden.npz").unlink()
    export(config)
    load_encoder(config.out, check=True)


def test_a_model_left_by_a_killed_export_is_restored_first(home):
    (home / "model").rename(home / ".model.previous")
    with pytest.raises(UsageError, match="contains the model of another run"):
        export(ExportConfig(model=home / "runs" / "two", out=home / "model", tflite="none"))
    assert read_manifest(home / "model")["training"]["config"]["seed"] == 42


def test_checkpoints_are_identified_by_their_content(tmp_path, home):
    of_file = {"converted_from": {"checkpoint": {"file": "clmr.ckpt", "sha256": "a"}}}
    with pytest.raises(UsageError, match="of another run or checkpoint"):
        require_same_origin(home / "model", of_file)
    manifest = read_manifest(home / "model")
    run = manifest["training"]
    manifest["training"] = {"step": 0, "converted_from": {"checkpoint": {"file": "moved.ckpt", "sha256": "a"}}}
    (home / "model" / "manifest.json").write_text(json.dumps(manifest))
    require_same_origin(home / "model", of_file)
    other = {"converted_from": {"checkpoint": {"file": "clmr.ckpt", "sha256": "b"}}}
    for training in (other, run):
        with pytest.raises(UsageError, match="of another run or checkpoint"):
            require_same_origin(home / "model", training)
    require_same_origin(tmp_path / "new", other)


def test_files_for_the_same_weights_are_kept(home, caplog):
    model = home / "model"
    add_files(model)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        export(ExportConfig(model=home / "runs" / "one", out=model, licence="CC0-1.0", tflite="none"))
    assert caplog.messages == []
    manifest = read_manifest(model)
    assert manifest["licence"] == "CC0-1.0" and manifest["scores"] == {"demo": {"metric": "accuracy", "mean": 0.5}}
    assert manifest["runtimes"] == dict.fromkeys(("model.tflite", "model.onnx"), RUNTIME_ENTRY)
    for name in ("model.tflite", "model.onnx", "retrieval-demo.json"):
        assert (model / name).read_bytes() == name.encode()
    assert manifest["web"] == WEB_ENTRY and (model / "web" / "index.html").read_bytes() == b"page"
    assert "model.tflite" in (model / "README.md").read_text(encoding="utf-8")


@pytest.mark.soak
def test_files_for_other_weights_are_removed_with_a_warning(home, caplog):
    model = home / "model"
    add_files(model)
    train(config_of(home, "one", steps=2))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        export(ExportConfig(model=home / "runs" / "one", out=model, tflite="none"))
    assert caplog.messages == [
        f"{model} no longer holds model.onnx, model.tflite, retrieval-demo.json, web, which belonged to other weights "
        "or another head; make them again with --head, --tflite, --onnx, --web or clmr_tf.probe."
    ]
    assert not {"model.onnx", "model.tflite", "retrieval-demo.json", "web"} & {path.name for path in model.iterdir()}
    manifest = read_manifest(model)
    assert manifest["training"]["step"] == 2 and "runtimes" not in manifest and manifest["scores"] == {}


def test_a_run_is_exported_for_litert_too_unless_its_file_is_kept(home, monkeypatch):
    written = []
    monkeypatch.setattr(runtimes, "add_runtime_files", lambda folder, kinds: written.append(kinds))
    monkeypatch.setattr(runtimes, "version_of", lambda package: "1.0")
    model = home / "model"
    export(ExportConfig(model=home / "runs" / "one", out=model))
    export(ExportConfig(model=home / "runs" / "one", out=model, onnx=True))
    export(ExportConfig(model=home / "runs" / "one", out=model, tflite="none"))
    assert written == [("fp32",), ("fp32", "onnx")]
    add_files(model)
    export(ExportConfig(model=home / "runs" / "one", out=model))
    assert len(written) == 2 and (model / "model.tflite").read_bytes() == b"model.tflite"
