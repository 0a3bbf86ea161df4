"""From a command line, with or without a configuration file, to a typed configuration, and back to a file."""

import contextlib
import dataclasses
import io
import itertools
import json
import shlex
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
import yaml

from clmr_tf.errors import UsageError, suggestion

Config = TypeVar("Config")


def parse_command(config_type: type[Config], arguments: Sequence[str], *, program: str, description: str) -> Config:
    """Makes a configuration from `arguments`.

    Three layers, each over the one before: the defaults of `config_type`, the file behind `--config` (YAML
    or JSON, the fields' names as keys), the other options. `--help` prints every field with its
    documentation and default. `--debug` is accepted for every command; `clmr_tf.console` acts on it.

    Args:
        config_type: A dataclass whose fields have defaults and docstrings.
        arguments: The command line without the program's name.
        program: How the command is called, for `--help`.
        description: What it does, for `--help`.

    Raises:
        UsageError: For a file that cannot be read, an unknown key or option (naming the nearest), a wrong type or an
            empty argument.
        SystemExit: With code 0, after `--help`.
    """
    arguments = list(arguments)
    _refuse_empty(arguments)
    path = _path_after_config(arguments)
    defaults = config_type() if path is None else load_config(config_type, path)

    @dataclasses.dataclass(frozen=True)
    class Options:
        config: Path | None = None
        """YAML or JSON file with any of the options below; the command line goes over it."""
        debug: bool = False
        """Show the whole traceback of an error."""
        settings: Annotated[config_type, tyro.conf.arg(name="")] = defaults  # type: ignore[valid-type] # known at run time

    try:
        # The parser's own words for a mistake fill half a screen.
        with contextlib.redirect_stderr(io.StringIO()):
            options, unknown = tyro.cli(
                Options, args=arguments, prog=program, description=description, return_unknown_args=True
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(_refused_value(config_type, arguments)) from stop
    if unknown:
        raise UsageError(_refused_option(config_type, unknown[0], program))
    return options.settings


def load_config(config_type: type[Config], path: Path) -> Config:
    """Reads a configuration file; fields that it does not name keep their defaults.

    Raises:
        UsageError: If the file cannot be read, has an unknown key or a value of a wrong type.
    """
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).replace("\n", " ")
        raise UsageError(f"The configuration file {path} cannot be read: {reason}.") from error
    return from_plain(config_type, {} if plain is None else plain, where=str(path))


def from_plain(config_type: type[Config], plain: Any, *, where: str) -> Config:
    """Makes a dataclass from plain JSON or YAML data, checking names and types.

    Args:
        config_type: A dataclass.
        plain: A mapping from field names to values.
        where: What to call the data in an error.

    Raises:
        UsageError: If `plain` is no mapping, has an unknown key (naming the nearest) or a wrong type.
    """
    if not isinstance(plain, Mapping):
        raise UsageError(f"{where} must hold settings as `name: value`; received {type(plain).__name__}.")
    hints = typing.get_type_hints(config_type)
    names = [field.name for field in dataclasses.fields(config_type)]
    values = {}
    for key, value in plain.items():
        name = str(key).replace("-", "_")
        if name in ("config", "debug"):
            raise UsageError(f"{where}: `{key}` belongs on the command line; leave it out of the file.")
        if name not in names:
            advice = suggestion(name, names, f"there are {', '.join(names)}.")
            raise UsageError(f"{where}: unknown setting `{key}`; {advice}")
        values[name] = _coerce(hints[name], value, f"{where}: `{key}`")
    return config_type(**values)


def to_plain(config: Any) -> dict[str, Any]:
    """The fields of a dataclass as plain JSON data, which `from_plain` reads back."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def _refuse_empty(arguments: Sequence[str]) -> None:
    # What a shell makes of a variable that is not set; as a path it would be the current folder.
    if any(argument == "" or (argument.startswith("--") and argument.endswith("=")) for argument in arguments):
        raise UsageError(f"An argument is empty: `{shlex.join(arguments)}`; give it a value or leave it out.")


def _path_after_config(arguments: Sequence[str]) -> Path | None:
    for index, argument in enumerate(arguments):
        if argument == "--config" and index + 1 < len(arguments):
            return Path(arguments[index + 1])
        if argument.startswith("--config="):
            return Path(argument.removeprefix("--config="))
    return None


def _refused_option(config_type: type, argument: str, program: str) -> str:
    if not argument.startswith("-"):
        return f"Unexpected argument `{argument}`; --help lists what {program} takes."
    option = argument.partition("=")[0].removeprefix("--")
    hints = {**typing.get_type_hints(config_type), "config": Path, "debug": bool, "help": None}
    options = [name.replace("_", "-") for name in hints]
    options += [f"no-{name.replace('_', '-')}" for name, hint in hints.items() if hint is bool]
    # Without the dashes, or every short option would be like every other.
    advice = suggestion(option, options, "--help lists those there are.", prefix="--")
    return f"Unknown option `--{option}`; {advice}"


def _refused_value(config_type: type, arguments: Sequence[str]) -> str:
    """Says which value the parser did not take, in the words that a file with the same mistake gets."""
    hints = {**typing.get_type_hints(config_type), "config": Path}
    for argument, following in itertools.zip_longest(arguments, arguments[1:], fillvalue="--"):
        option, has_value, value = argument.partition("=")
        hint = hints.get(option.removeprefix("--").replace("-", "_"), bool) if option.startswith("--") else bool
        if hint is bool:
            continue
        value = value if has_value else following
        if not has_value and value.startswith("--"):
            return f"`{option}` needs a value; --help says which."
        with contextlib.suppress(ValueError):
            value = value if hint in (str, Path, Path | None) else int(value)
        try:
            _coerce(hint, value, f"`{option}`")
        except UsageError as error:
            return str(error)
    return f"The options {' '.join(arguments)} cannot be understood; --help explains them all."


def _coerce(hint: Any, value: Any, where: str) -> Any:
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        of_something = next(choice for choice in choices if choice is not type(None))
        return None if value is None and type(None) in choices else _coerce(of_something, value, where)
    if origin is typing.Literal:
        # By type as well: 22050.0 equals 22050 but is no sample rate that TensorFlow takes.
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            raise UsageError(f"{where} must be one of {list(choices)}; received {value!r}.")
        return value
    if hint is Path and isinstance(value, str) and value:
        return Path(value).expanduser()
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        # YAML 1.1 reads 3e-4 as a string, for want of a point.
        try:
            return float(value)
        except ValueError:
            pass
    elif origin is tuple and isinstance(value, list | tuple):
        return tuple(_coerce(choices[0], entry, where) for entry in value)
    elif hint in (int, bool, str) and type(value) is hint:
        return value
    raise UsageError(f"{where} must be {_name(hint)}; received {value!r}.")


def _name(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    return "a list" if typing.get_origin(hint) is tuple else names.get(hint, str(hint))
