"""What is installed is all there is, and works in a folder that is no checkout."""

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
    """A build elsewhere, so that what an earlier one left behind is not taken for new."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(folder)]
    command += ["build", "--build-base", str(folder / "base"), "--build-lib", str(folder / "lib")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_file_of_the_packages_is_installed(built):
    there = {
        path.relative_to(ROOT)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and ".gitignore" not in path.name
    }
    installed = {path.relative_to(built / "lib") for path in (built / "lib").rglob("*") if path.is_file()}
    assert there - installed == set()


def test_what_the_package_says_of_itself(built):
    (facts,) = built.glob("*.egg-info")
    metadata = message_from_string((facts / "PKG-INFO").read_text(encoding="utf-8"))
    assert metadata["Version"] == __version__
    assert metadata["License"] == "Apache-2.0" or metadata["License-Expression"] == "Apache-2.0"
    assert re.sub(r"\s", "", metadata["Requires-Python"]) in (">=3.11,<3.14", "<3.14,>=3.11")
    assert set(metadata.get_all("Provides-Extra")) == {"av", "direct", "parquet", "runtimes", "dev"}
    assert "make train" in metadata.get_payload()
    assert "clmr-tf" in (facts / "entry_points.txt").read_text()


@pytest.fixture(scope="module")
def anywhere(built, tmp_path_factory):
    """Starts Python in a folder of somebody else, who has packages of their own that are called like ours."""
    folder = tmp_path_factory.mktemp("anywhere")
    for name in ("pipelines", "recipes", "rich"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise SystemExit('code of somebody else')\n")
    (folder / "recipes" / "cake.yaml").write_text("flour: 500 g\n")
    (folder / "yaml.py").write_text("raise SystemExit('code of somebody else')\n")
    (folder / "demo").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(built / "lib")}

    def start(*arguments):
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    return start


SCRIPT = ("-P", "-c", "import sys; from clmr_tf.__main__ import run; sys.exit(run())")
"""What pip makes of the entry point: a script in a folder of its own."""


def test_the_script_and_the_modules_import_what_is_installed(anywhere, built):
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
    for start in (SCRIPT, ("-m", "clmr_tf")):
        listed = anywhere(*start, "recipes", "list")
        assert listed.returncode == 0, listed.stderr
        assert "mtt-epochs-1000" in listed.stdout and "cake" not in listed.stdout
    module = anywhere("-m", "clmr_tf.recipes", "list")
    assert (module.returncode, module.stdout) == (0, listed.stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        ["export"],
        ["probe"],
        ["embed"],
        ["tag"],
        ["similar"],
        ["augment"],
        ["convert"],
        ["report"],
        ["train", "--corpus", "nowhere"],
        ["recipes", "run", "mtt-epochs-1000"],
        ["prepare", "magnatagatune"],
        ["prepare", "folder"],
        ["prepare", "pseudo_tags"],
    ],
    ids=" ".join,
)
def test_a_command_that_lacks_something_says_what_in_one_sentence(anywhere, arguments):
    done = anywhere(*SCRIPT, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    *before, last = done.stderr.splitlines()
    assert last.startswith("error: ") and before == [] and "Traceback" not in done.stderr, done.stderr


def test_the_demo_is_prepared_and_the_folder_of_that_name_is_said_not_to_be(anywhere, tmp_path):
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
