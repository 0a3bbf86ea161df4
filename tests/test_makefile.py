"""The Makefile's printed next steps and choice of Python, and the pinned requirements."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from clmr_tf.audio.decoding import load_audio

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def test_next_steps_after_make_train_work():
    planned = subprocess.run(["make", "--dry-run", "train"], cwd=ROOT, capture_output=True, text=True, check=True)
    (recording,) = re.findall(r"\.embed\('([^']+)'\)", planned.stdout)
    (model,) = re.findall(r"load_encoder\('([^']+)'\)", planned.stdout)
    assert f"clmr_tf.export --model runs/demo-run --out {model} --overwrite\n" in planned.stdout
    # The probe is followed by the retrieval, which needs no labels.
    probe = f"-m clmr_tf.probe --model {model} --corpus demo"
    assert f"{probe}\n" in planned.stdout and f"{probe} --preset retrieval\n" in planned.stdout
    # The recording must be at least as long as a clip.
    assert len(load_audio(ROOT / recording, 22_050)) >= 59_049


def test_paths_to_tests_in_makefile_and_ci_exist():
    named = re.findall(r"tests/[\w/.]+", (ROOT / "Makefile").read_text() + (ROOT / ".ci" / "run").read_text())
    assert len(named) >= 5 and [path for path in named if not (ROOT / path.rstrip(".")).exists()] == []


PYTHON = """#!/bin/sh
case "$2" in
    *version_info*) {version} ;;
    *ensurepip*) {ensurepip} ;;
    venv) mkdir -p "$3/bin" && touch "$3/bin/pip" && echo "made by {name}" ;;
    *) echo "unexpected: $*" >&2; exit 9 ;;
esac
"""


@pytest.fixture
def make_environment(tmp_path):
    """Runs the rule that creates .venv with only the given Pythons on PATH.

    Each has a name and a version. None stands for a command that fails, like some of pyenv's; a version ending in "-"
    has no venv module.
    """
    commands = tmp_path / "bin"
    commands.mkdir()
    for tool in ("sh", "mkdir", "touch", "rm"):
        (commands / tool).symlink_to(shutil.which(tool))

    def run(pythons, *arguments):
        for name, version in pythons.items():
            path = commands / name
            says = "exit 127" if version is None else f"echo {version.removesuffix('-')}"
            ensurepip = "exit 1" if version and version.endswith("-") else "exit 0"
            path.write_text(PYTHON.format(name=name, version=says, ensurepip=ensurepip))
            path.chmod(0o755)
        venv = tmp_path / ".venv"
        return subprocess.run(
            [
                shutil.which("make"),
                "--silent",
                "--file",
                ROOT / "Makefile",
                f"VENV={venv}",
                f"{venv}/bin/pip",
                *arguments,
            ],
            cwd=tmp_path,
            env={"PATH": str(commands)},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.parametrize(
    ("pythons", "taken"),
    [
        ({"python3.11": "3.11", "python3.12": "3.12", "python3.13": "3.13", "python3": "3.11"}, "python3.13"),
        ({"python3.11": "3.11", "python3.12": "3.12", "python3.14": "3.14", "python3": "3.14"}, "python3.12"),
        ({"python3": "3.11"}, "python3"),
        # The first fails, and the second has no venv module.
        ({"python3.13": None, "python3.12": "3.12-", "python3.11": "3.11"}, "python3.11"),
    ],
)
def test_newest_usable_python_is_chosen(make_environment, pythons, taken):
    made = make_environment(pythons)
    assert (made.returncode, made.stdout, made.stderr) == (0, f"made by {taken}\n", "")


@pytest.mark.parametrize(
    ("pythons", "words"),
    [
        (
            {"python3": "3.14", "python3.14": "3.14"},
            ["3.11, 3.12 or 3.13 is needed", "Python 3.14 was found", "uv"],
        ),
        ({}, ["Python 3.11, 3.12 or 3.13 is needed", "no Python was found"]),
        ({"python3": "3.13-", "python3.13": "3.13-"}, ["no venv module", "apt-get install python3.13-venv"]),
    ],
)
def test_missing_python_error_says_how_to_get_one(make_environment, pythons, words):
    made = make_environment(pythons)
    sentence, *of_make = made.stderr.splitlines()
    assert made.returncode == 2 and made.stdout == ""
    assert sentence.startswith("error: ") and all(word in sentence for word in words)
    assert all(line.startswith("make: ***") for line in of_make)


def test_given_python_is_used(make_environment, tmp_path):
    pythons = {"python3.13": "3.13", "mine": "3.12", "old": "3.10"}
    assert make_environment(pythons, "PYTHON=mine").stdout == "made by mine\n"
    shutil.rmtree(tmp_path / ".venv")
    refused = make_environment(pythons, "PYTHON=old")
    assert refused.returncode == 2 and "Python 3.10 was found" in refused.stderr


def pins_in(name: str) -> dict[str, list[tuple[str, str]]]:
    """Returns the (version, marker) pairs of each package in a requirements file."""
    found = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        pin = re.fullmatch(r"([\w.-]+)==([^;\s]+)(?:; (.+))?", line)
        if pin:
            found.setdefault(pin[1].lower().replace("_", "-"), []).append((pin[2], pin[3] or ""))
        else:
            assert not line or line.startswith(("#", "-r ")) or name == "requirements-latest.txt", line
    return found


def test_requirements_and_constraints_agree_for_every_python_version():
    constraints = pins_in("constraints.txt")
    for name in ("requirements.txt", "requirements-test.txt"):
        for package, pins in pins_in(name).items():
            assert sorted(pins) == sorted(constraints[package]), package
    older, newer = 'python_version < "3.13"', 'python_version >= "3.13"'
    for package, pins in constraints.items():
        markers = sorted(marker for _, marker in pins)
        assert markers in ([""], sorted([older, newer]), [older], ['python_version >= "3.12"']), package


def test_latest_requirements_match_those_of_the_newest_python():
    constraints, latest = pins_in("constraints.txt"), pins_in("requirements-latest.txt")
    newest = {
        package: version
        for package, pins in constraints.items()
        for version, marker in pins
        if marker == 'python_version >= "3.13"'
    }
    # requirements-latest.txt is not constrained, so it must pin the packages that have two versions. The newest NumPy
    # and PyAV need a newer Python than 3.11.
    assert set(newest) <= set(latest)
    assert {package for package in newest if latest[package] != [(newest[package], "")]} == {"numpy", "av"}
    lines = (ROOT / "requirements-latest.txt").read_text(encoding="utf-8").lower().splitlines()
    needed = {*pins_in("requirements.txt"), *pins_in("requirements-test.txt")} - {"tensorflow-io"}
    assert needed <= {line.partition("==")[0].replace("_", "-") for line in lines}
