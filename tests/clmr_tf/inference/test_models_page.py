"""Every snippet of docs/models.md runs as it stands, with a tiny model."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from clmr_tf.__main__ import main
from clmr_tf.console import run_command
from clmr_tf.export import __main__ as export
from tests.clmr_tf.exported import PROBE_TAGS
from tests.synthetic import melody, write_music

PAGE = Path(__file__).parents[3] / "docs" / "models.md"


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def home(with_runtimes, tmp_path, monkeypatch):
    """The current folder, with the files that the page names."""
    for package in ("ai_edge_litert", "onnxruntime", "tf2onnx"):
        pytest.importorskip(package)
    shutil.copytree(with_runtimes, tmp_path / "savedmodels" / "mine")
    write_music(tmp_path / "Music", 2)
    soundfile.write(tmp_path / "song.mp3", melody(1, 8 * 44_100, 44_100), 44_100)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python(home):
    names: dict = {}
    for code in snippets("python"):
        exec(compile(code, PAGE.name, "exec"), names)
    vectors = names["embedding"]
    # The last assignment is that of ONNX Runtime.
    np.testing.assert_allclose(vectors, names["golden"]["embedding"], rtol=1e-3, atol=1e-3)
    assert names["encoder"].runtime == "onnx" and names["fast"].runtime == "litert-int8"
    assert {name for name, _ in names["encoder"].tag("song.mp3").top(3)} == set(PROBE_TAGS)


def test_commands(home, monkeypatch, capsys):
    first, *others = [line for block in snippets("sh") for line in block.splitlines()]
    # There is no run to export; what it writes is tested elsewhere.
    exported = []
    monkeypatch.setattr(export, "export", lambda config: exported.append(config) or home)
    for line in (first, *others):
        python, option, module, *arguments = shlex.split(line)
        assert (python, option) == ("python", "-m")
        assert run_command(main, [module.removeprefix("clmr_tf."), *arguments]) == 0, capsys.readouterr().err
    assert exported[0].runtimes == ("fp32", "int8", "onnx")
    assert "song.mp3" in capsys.readouterr().out
