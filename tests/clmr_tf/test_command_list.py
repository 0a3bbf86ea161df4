"""`clmr-tf`: lists and runs commands, and rejects unknown ones."""

from pathlib import Path

import pytest

from clmr_tf import __main__ as command_list
from clmr_tf import __version__
from clmr_tf.console import run_command

ROOT = Path(__file__).parents[2]


def commands_in(folder: Path) -> set[str]:
    # Other modules with a `main` are not commands for users.
    modules = {path.stem for path in folder.glob("*.py") if "sys.exit(run_command(main))" in path.read_text("utf-8")}
    return modules | {path.parent.name for path in folder.glob("*/__main__.py")}


def test_listing_has_every_command_and_corpus(capsys):
    commands = commands_in(ROOT / "clmr_tf")
    assert set(command_list.COMMANDS) == commands >= {"train", "augment"}
    corpora = commands_in(ROOT / "pipelines")
    assert set(command_list.CORPORA) == corpora >= {"demo", "gtzan"}
    for arguments in ([], ["--help"], ["prepare"]):
        assert run_command(command_list.main, arguments) == 0
        listing = capsys.readouterr().out
        assert all(f"clmr-tf {name} " in listing for name in commands)
        assert all(f"clmr-tf prepare {name} " in listing for name in corpora)


@pytest.mark.parametrize(
    ("arguments", "program"),
    [
        (["similar", "--help"], "python -m clmr_tf.similar"),
        (["augment", "--help"], "python -m clmr_tf.augment"),
        (["prepare", "gtzan", "--help"], "python -m pipelines.gtzan"),
    ],
)
def test_arguments_after_the_name_are_passed_to_the_command(capsys, arguments, program):
    with pytest.raises(SystemExit) as stopped:
        run_command(command_list.main, arguments)
    assert stopped.value.code == 0 and program in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["trian"], "There is no command 'trian'; did you mean `train`?"),
        (["xyz"], "There is no command 'xyz'; `clmr-tf` lists all commands."),
        (["prepare", "gtzen"], "There is no corpus 'gtzen'; did you mean `gtzan`?"),
        (["similar", "--top", "0"], "--top must be at least 1; received 0."),
    ],
)
def test_wrong_usage_is_reported_in_one_sentence(capsys, arguments, sentence):
    assert run_command(command_list.main, arguments) == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"


def test_version_option_prints_the_package_version(capsys):
    assert run_command(command_list.main, ["--version"]) == 0
    assert capsys.readouterr().out == f"clmr_tf {__version__}\n"
