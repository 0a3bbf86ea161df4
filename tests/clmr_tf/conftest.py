"""Exported models, made once for all tests and all pytest-xdist workers."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Returns a function that gets a folder by name, and makes it unless another pytest-xdist worker has."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def get(name: str, make: Callable[[Path], None]) -> Path:
        folder = root / "shared" / name
        folder.parent.mkdir(exist_ok=True)
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                draft = folder.with_suffix(".draft") / name
                make(draft)
                draft.rename(folder)
        return folder

    return get


@pytest.fixture(scope="session")
def exported_folder(shared_folder) -> Path:
    """The model folder of `tests.clmr_tf.exported`; tests that change it take a copy."""
    # Imported here because it imports TensorFlow and most of the package.
    from tests.clmr_tf.exported import write_exported

    return shared_folder("tiny", write_exported)


@pytest.fixture(scope="session")
def with_runtimes(exported_folder, shared_folder) -> Path:
    """A model folder with the head of a probe and all files for other runtimes, one of which had another head."""

    def make(folder: Path) -> None:
        from clmr_tf.export.__main__ import ExportConfig, export
        from clmr_tf.export.runtime_formats import version_of
        from tests.clmr_tf.exported import write_probe

        shutil.copytree(exported_folder, folder)
        (folder / "model.tflite").write_bytes(b"with the tags of another head")
        has_onnx = None not in map(version_of, ("tf2onnx", "onnx", "onnxruntime"))
        export(ExportConfig(model=folder, head=write_probe(folder.parent), tflite="fp16,int8", onnx=has_onnx))

    return shared_folder("with-runtimes", make)


@pytest.fixture
def folder(exported_folder, tmp_path) -> Path:
    """A copy of the model folder, to change."""
    return Path(shutil.copytree(exported_folder, tmp_path / "model"))
