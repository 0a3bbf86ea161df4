"""The installed package is complete and works outside of a checkout."""

import json
import os
import re
import subprocess
import sys
from email import message_from_string
from pathlib import Path

import pytest

from clmr_tf import __version__

ROOT = Path(__file__).parents[1]
FOLDERS = ("clmr_tf", "pipelines", "recipes")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Builds in a new folder, so that files of an earlier build are not counted."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(folder)]
    command += ["build", "--build-base", str(folder / "base"), "--build-lib", str(folder / "lib")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_all_package_files_are_installed(built):
    there = {
        path.relative_to(ROOT)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and ".gitignore" not in path.name
    }
    installed = {path.relative_to(built / "lib") for path in (built / "lib").rglob("*") if path.is_file()}
    assert there - installed == set()


def test_package_metadata(built):
    (egg_info,) = built.glob("*.egg-info")
    metadata = message_from_string((egg_info / "PKG-INFO").read_text(encoding="utf-8"))
    assert metadata["Version"] == __version__
    assert metadata["License"] == "Apache-2.0" or metadata["License-Expression"] == "Apache-2.0"
    assert re.sub(r"\s", "", metadata["Requires-Python"]) in (">=3.11,<3.15", "<3.15,>=3.11")
    extras = {"train", "onnx", "browse", "cluster", "direct", "index", "runtimes", "dev"}
    assert set(metadata.get_all("Provides-Extra")) == extras
    assert "make train" in metadata.get_payload()
    assert "clmr-tf" in (egg_info / "entry_points.txt").read_text()


@pytest.fixture(scope="module")
def anywhere(built, tmp_path_factory):
    """Runs Python in a folder that contains other packages with our names."""
    folder = tmp_path_factory.mktemp("anywhere")
    for name in ("pipelines", "recipes", "rich"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise SystemExit('another package')\n")
    (folder / "recipes" / "cake.yaml").write_text("flour: 500 g\n")
    (folder / "yaml.py").write_text("raise SystemExit('another package')\n")
    (folder / "demo").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(built / "lib")}

    def start(*arguments):
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    return start


SCRIPT = ("-P", "-c", "import sys; from clmr_tf.__main__ import run; sys.exit(run())")
"""Stands for the script that pip installs for the entry point."""


def test_script_and_modules_import_the_installed_packages(anywhere, built):
    program = (
        "import json, sys, pipelines.folder, yaml, rich, clmr_tf\n"
        "from clmr_tf.recipes.recipe import RECIPES\n"
        "print(json.dumps([pipelines.__file__, yaml.__file__, rich.__file__, str(RECIPES)]))"
    )
    ours = anywhere("-P", "-c", program)
    assert ours.returncode == 0, ours.stderr
    pipelines, *others, recipes = json.loads(ours.stdout)
    assert (pipelines, recipes) == (str(built / "lib" / "pipelines" / "__init__.py"), str(built / "lib" / "recipes"))
    assert not any("anywhere" in path for path in others)
    listed = anywhere(*SCRIPT, "recipes", "list")
    assert listed.returncode == 0, listed.stderr
    assert "mtt-epochs-1000" in listed.stdout and "cake" not in listed.stdout
    module = anywhere("-m", "clmr_tf.recipes", "list")
    assert (module.returncode, module.stdout) == (0, listed.stdout)


INCOMPLETE = """
export; probe; embed; tag; similar; augment; convert; report; train --corpus nowhere; recipes run mtt-epochs-1000;
prepare magnatagatune; prepare folder; prepare pseudo_tags
"""
# All commands run in one process, since each start takes a second.
RUN_ALL = """
import contextlib, io, json, sys
from clmr_tf.__main__ import main
from clmr_tf.console import run_command

ended = []
for command in sys.argv[1].split(";"):
    with contextlib.redirect_stderr(io.StringIO()) as written:
        ended.append([command.strip(), run_command(main, command.split()), written.getvalue()])
print(json.dumps(ended))
"""


def test_incomplete_commands_fail_in_one_sentence(anywhere):
    done = anywhere("-P", "-c", RUN_ALL, INCOMPLETE)
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout)
    assert len(ended) == 13
    for command, exit_code, written in ended:
        assert exit_code == 2 and written.startswith("error: ") and written.count("\n") == 1, (command, written)


@pytest.mark.soak
def test_demo_corpus_takes_precedence_over_a_folder_named_demo(anywhere, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "from pathlib import Path\n"
        "from clmr_tf.data.resolution import resolve_corpus\n"
        "if __name__ == '__main__':\n"
        "    places = {'corpora': Path('corpora'), 'sample_rate_hz': 22050, 'clip_num_samples': 59049}\n"
        "    print(len(resolve_corpus('demo', **places).items))\n"
    )
    done = anywhere(program)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "107\n" and "give ./demo" in done.stderr


def test_an_installation_has_the_included_model(anywhere, built):
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('tensorflow', 'keras')))\n"
        "import clmr_tf\n"
        "from clmr_tf.config.command_line import INCLUDED_MODEL\n"
        "print(INCLUDED_MODEL, clmr_tf.load_encoder().embed(sys.argv[1]).vectors.shape)\n"
    )
    song = ROOT / "pipelines" / "demo_data" / "audio" / "marine" / "industrial.ogg"
    done = anywhere("-P", "-c", program, song)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{built / 'lib' / 'clmr_tf' / 'included_model'} (11, 512)\n"
    there = {path.name for path in (built / "lib" / "clmr_tf" / "included_model").iterdir()}
    assert there == {"README.md", "manifest.json", "golden.npz", "head.npz", "model.tflite", "model-int8.tflite"}
