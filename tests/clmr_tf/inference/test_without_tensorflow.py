"""Inference where TensorFlow and the other packages of training are not installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clmr_tf.errors import PACKAGES_OF_TRAIN
from tests.strict_python import STRICT_PYTHON
from tests.synthetic import write_music

ROOT = Path(__file__).parents[3]

# All commands run in one process, since each start takes a second. None in sys.modules makes an import fail.
PROGRAM = """
import contextlib, io, json, sys

sys.modules.update(dict.fromkeys(json.loads(sys.argv[1])))
from clmr_tf.__main__ import main
from clmr_tf.console import run_command

ended = []
for command in json.loads(sys.argv[2]):
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
        ended.append([run_command(main, command), output.getvalue(), errors.getvalue()])
print(json.dumps(ended))
"""


def run(folder: Path, *commands: list[str]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of `clmr-tf` commands, run where these packages are not installed."""
    arguments = [json.dumps(sorted(PACKAGES_OF_TRAIN)), json.dumps(commands)]
    done = subprocess.run(
        [*STRICT_PYTHON, "-c", PROGRAM, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "LiteRT's start-up messages are hidden"
    return [tuple(one) for one in json.loads(done.stdout)]


def test_embed_tag_and_similar_work_and_everything_else_says_what_to_install(with_runtimes, tmp_path):
    pytest.importorskip("ai_edge_litert")
    write_music(tmp_path / "songs", 3)
    model = ["--model", str(with_runtimes), "--runtime", "litert"]
    (tmp_path / "runs").mkdir()
    embedded, found, tagged, *refused = run(
        tmp_path,
        ["embed", "songs", *model, "--out", "table"],
        ["similar", "songs/song 1.flac", *model, "--index", "table"],
        ["tag", "songs", *model, "--top", "1"],
        ["tag", "songs/song 1.flac", *model, "--plot", "x.png"],
        ["tag", "songs", "--model", str(with_runtimes), "--runtime", "tensorflow"],
        ["tag", "songs", "--model", "runs"],
        ["export", "--model", "runs"],
        ["train", "--corpus", "songs"],
        ["teach", "table", "--tag", "soft", "--yes", "songs/song 1.flac"],
    )
    assert embedded == (0, "Embedded 3 of 3 files to table.\n", "")
    assert found[0] == 0 and found[1].count("\n") == 3 and found[1].startswith(f"{tmp_path}/songs/song 1.flac\n")
    assert tagged[0] == 0 and tagged[1].count("\n") == 6
    of_train = "run `pip install '.[train]'` in a clone of this project"
    of_browse = "run `pip install '.[browse]'` in a clone of this project"
    expected = [
        ("package matplotlib", "run `pip install matplotlib`"),
        ("The runtime tensorflow needs TensorFlow", of_train),
        ("runs is not a model folder; a run", of_train),
        ("package", of_train),
        ("package", of_train),
        ("package sklearn", of_browse),
    ]
    for (exit_code, output, error), (words, advice) in zip(refused, expected, strict=True):
        assert (exit_code, output) == (2, "") and words in error
        assert error.endswith(f"which is not installed; {advice}.\n") and error.count("\n") == 1


def test_importing_the_encoder_imports_none_of_them():
    modules = (
        "clmr_tf.inference.encoder, clmr_tf.inference.exported_encoder, clmr_tf.embed, clmr_tf.tag, clmr_tf.similar"
    )
    code = f"import sys, {modules}; print(sorted({set(PACKAGES_OF_TRAIN)} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_tagging_imports_none_of_them_where_they_are_installed():
    pytest.importorskip("ai_edge_litert")
    song = ROOT / "pipelines/demo_data/audio/marine/industrial.ogg"
    code = (
        "import sys; from clmr_tf import tag; from clmr_tf.console import run_command; "
        f"print(run_command(tag.main, [{str(song)!r}, '--top', '1']), "
        "sorted({'tensorflow', 'keras', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
