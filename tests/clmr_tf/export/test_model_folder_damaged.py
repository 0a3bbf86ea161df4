"""Damaged model folders are refused in one sentence, nothing is added to them, and an export repairs them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clmr_tf.console import run_command
from clmr_tf.convert import __main__ as convert
from clmr_tf.convert.translation import to_pytorch
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.export import __main__ as export
from clmr_tf.export import writing
from clmr_tf.export.__main__ import ExportConfig
from clmr_tf.export.model_card import record_score
from clmr_tf.export.model_folder import read_manifest
from clmr_tf.export.writing import write_model_folder
from clmr_tf.inference.encoder import load_encoder
from tests.clmr_tf.exported import HEAD, MANIFEST_ENTRIES, TAGS, model

SCORES = {"demo": {"metric": "accuracy", "score": 0.5}}
Damage = Callable[[Path], object]


def cut(name: str, fraction: float = 0.5) -> Damage:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(fraction * len(content))])

    return damage


def with_arrays(name: str, changed: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Damage:
    def damage(folder: Path) -> None:
        with np.load(folder / name) as arrays:
            whole = dict(arrays)
        np.savez(folder / name, **changed(whole))

    return damage


def of_head(changed: Callable[[np.ndarray], np.ndarray], *names: str) -> Damage:
    return with_arrays("head.npz", lambda head: {**head, **{name: changed(head[name]) for name in names}})


def of_golden(changed: Callable[[np.ndarray], np.ndarray], *names: str) -> Damage:
    return with_arrays("golden.npz", lambda golden: {**golden, **{name: changed(golden[name]) for name in names}})


def with_manifest(**changes: object) -> Damage:
    """Changes entries, or takes away those that are None."""

    def damage(folder: Path) -> None:
        manifest = {**json.loads((folder / "manifest.json").read_text()), **changes}
        kept = {name: value for name, value in manifest.items() if value is not None}
        (folder / "manifest.json").write_text(json.dumps(kept))

    return damage


def both(*damages: Damage) -> Damage:
    return lambda folder: [damage(folder) for damage in damages]


def fewer(array: np.ndarray) -> np.ndarray:
    return array[..., :2]


UNREADABLE = r"golden\.npz cannot be read \({}.*\); export the model again\.$"
HEADS = r"head\.npz cannot be read \({}.*\); export the model again\.$"
DAMAGES = {
    "head-empty": (cut("head.npz", 0), HEADS.format("it is damaged")),
    "head-cut": (cut("head.npz"), HEADS.format("it is damaged")),
    "head-words": (lambda folder: (folder / "head.npz").write_text("a head"), HEADS.format("it is damaged")),
    "head-fewer-outputs": (
        of_head(fewer, "weights_2", "weights_3"),
        "and 2 outputs, but an embedding has 512 numbers and .* 3 tags; export the model",
    ),
    "head-offset-short": (of_head(fewer, "weights_1"), HEADS.format("its layers do not match")),
    "head-of-other-features": (
        of_head(lambda array: array[:500], "mean", "standard_deviation", "weights_0"),
        r"head\.npz has 500 inputs .* but an embedding has 512 numbers",
    ),
    "head-text": (
        of_head(lambda array: array.astype(str), "weights_1"),
        HEADS.format("it contains mean, standard_deviation"),
    ),
    "projector-cut": (cut("projector.npz"), r"projector\.npz cannot be read .*; convert the checkpoint again"),
    "projector-of-other-features": (
        with_arrays("projector.npz", lambda arrays: {name: array[:500, :500] for name, array in arrays.items()}),
        r"projector\.npz cannot be read \(its matrices .* which do not fit an embedding\)",
    ),
    "golden-cut": (cut("golden.npz"), UNREADABLE.format("it is damaged")),
    "golden-empty": (cut("golden.npz", 0), UNREADABLE.format("it is damaged")),
    "golden-gone": (lambda folder: (folder / "golden.npz").unlink(), UNREADABLE.format("No such file")),
    "golden-other-length": (
        of_golden(lambda array: array[:, :-1], "audio"),
        "has clips of 59048 samples, and the encoder needs",
    ),
    "golden-no-rows": (
        of_golden(lambda array: array[:0], "audio", "embedding", "logits", "projection"),
        UNREADABLE.format("an array is not two-dimensional"),
    ),
    "golden-other-rows": (of_golden(lambda array: array[:1], "embedding"), UNREADABLE.format("its shapes audio")),
    "golden-other-width": (of_golden(lambda array: array[:, :500], "embedding"), UNREADABLE.format("its shapes audio")),
    "golden-text": (of_golden(lambda array: array.astype(str), "embedding"), UNREADABLE.format("an array is not")),
    "golden-no-logits": (
        with_arrays("golden.npz", lambda golden: {name: golden[name] for name in golden if name != "logits"}),
        UNREADABLE.format("it has no array `logits`"),
    ),
    "golden-fewer-logits": (of_golden(fewer, "logits"), r"gives logits of shape \[2, 3\], and golden\.npz has"),
    "manifest-no-names": (with_manifest(tag_names=None), "has no `tag_names`"),
    "manifest-no-kind-of-tags": (with_manifest(single_label=None), "has no `single_label`"),
    "manifest-few-names": (with_manifest(tag_names=TAGS[:2]), "and manifest.json 2 tags; export the model again"),
    "manifest-names-of-another-kind": (with_manifest(tag_names="low"), "has no `tag_names`"),
    "manifest-cut": (cut("manifest.json"), r"manifest\.json cannot be read"),
}

FOR_EVERY_USE = (
    "head-fewer-outputs",
    "projector-of-other-features",
    "golden-other-length",
    "golden-fewer-logits",
    "manifest-cut",
)


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_part_is_refused_in_one_sentence_by_every_use(folder, tmp_path, request, damage, sentence):
    damage(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    uses = [
        lambda: load_encoder(folder, check=True),
        lambda: export.export(ExportConfig(model=folder, tflite="fp32")),
        lambda: to_pytorch(folder, tmp_path / "back.pt"),
    ]
    # One damage of each part for every use; they read the parts by the same functions.
    for use in uses if request.node.callspec.id in FOR_EVERY_USE else uses[:1]:
        with pytest.raises(UsageError, match=sentence) as error:
            use()
        assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_commands_end_with_2(folder, tmp_path, capfd):
    (folder / "golden.npz").write_bytes(b"")
    assert run_command(export.main, ["--model", str(folder), "--tflite", "fp32"]) == 2
    assert run_command(convert.main, ["--to-pytorch", str(folder), "--out", str(tmp_path / "back.pt")]) == 2
    assert capfd.readouterr().err.count("cannot be read (it is damaged, or not an .npz file)") == 2


def test_a_head_with_fewer_tags_is_found_by_the_golden_numbers(folder):
    both(of_head(fewer, "weights_2", "weights_3"), with_manifest(tag_names=TAGS[:2]))(folder)
    with pytest.raises(UsageError, match=r"head\.npz gives logits of shape \[2, 2\], and golden\.npz has \[2, 3\]"):
        load_encoder(folder)


@pytest.mark.parametrize("part", ["input", "output", "name", "licence"])
def test_nothing_is_added_to_a_model_with_an_incomplete_manifest(folder, part):
    with_manifest(**{part: None})(folder)
    before = (folder / "manifest.json").read_bytes()
    for use in (
        lambda: export.export(ExportConfig(model=folder, tflite="fp32")),
        lambda: record_score(folder, "demo", SCORES["demo"]),
    ):
        with pytest.raises(UsageError, match=rf"manifest\.json has no `{part}"):
            use()
    assert (folder / "manifest.json").read_bytes() == before


def test_nothing_is_added_to_a_model_with_other_outputs(folder):
    of_head(lambda array: 1.01 * array, "weights_0")(folder)
    with pytest.raises(ClmrError, match=r"head\.npz gives logits that differ"):
        export.export(ExportConfig(model=folder, tflite="fp32"))
    assert not list(folder.glob("model*"))
    shutil.rmtree(folder / "saved_model")
    with pytest.raises(ClmrError):
        export.export(ExportConfig(model=folder, tflite="fp32"))


def test_a_saved_model_that_cannot_be_run_is_one_sentence(folder):
    (folder / "saved_model" / "saved_model.pb").write_bytes(b"words")
    with pytest.raises(UsageError, match=r"saved_model cannot be run \(.*\); export the model again\.$"):
        load_encoder(folder, check=True)


@pytest.fixture
def quick_write(exported_folder, monkeypatch):
    """Copies the shared model instead of writing one."""
    monkeypatch.setattr(
        writing, "_write", lambda encoder, draft, *_: shutil.copytree(exported_folder, draft, dirs_exist_ok=True)
    )


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(cut("golden.npz", 0), marks=pytest.mark.soak),
        pytest.param(lambda folder: (folder / "manifest.json").unlink(), marks=pytest.mark.soak),
        lambda folder: shutil.rmtree(folder / "saved_model"),
    ],
    ids=["golden-empty", "manifest-gone", "saved-model-gone"],
)
@pytest.mark.usefixtures("quick_write")
def test_an_export_repairs_a_damaged_model(folder, tmp_path, damage, request, caplog):
    record_score(folder, "demo", SCORES["demo"])
    (folder / "probe-demo.json").write_text("{}")
    damage(folder)
    write_model_folder(model(), folder, MANIFEST_ENTRIES, HEAD)
    load_encoder(folder, check=True)
    # The probes go along only where it is sure of which weights they are.
    is_sure = "saved-model" in request.node.callspec.id
    assert read_manifest(folder)["scores"] == (SCORES if is_sure else {})
    assert (folder / "probe-demo.json").exists() == is_sure
    assert ("No files of the previous model are kept: " in caplog.text) != is_sure
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.usefixtures("quick_write")
def test_other_files_in_a_damaged_model_are_left_alone(folder):
    (folder / "golden.npz").unlink()
    (folder / "notes.txt").write_text("precious")
    before = {path.name for path in folder.iterdir()}
    with pytest.raises(UsageError, match=r"contains notes\.txt, which an export would delete"):
        write_model_folder(model(), folder, MANIFEST_ENTRIES)
    (folder / "notes.txt").unlink()
    (folder / "manifest.json").unlink()
    with pytest.raises(UsageError, match="exists and is not a model folder"):
        write_model_folder(model(), folder, MANIFEST_ENTRIES)
    assert {path.name for path in folder.iterdir()} == before - {"notes.txt", "manifest.json"}
