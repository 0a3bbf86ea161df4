"""Parses a command line, with an optional configuration file, into a typed configuration, and converts it back."""

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
from typing import Annotated, Any, Literal, TypeVar

import tyro

from clmr_tf.errors import UsageError, suggestion

Config = TypeVar("Config")


def parse_command(config_type: type[Config], arguments: Sequence[str], *, program: str, description: str) -> Config:
    """Parses a command line into a configuration.

    Options override the file given by `--config` (YAML or JSON with field names as keys), which overrides the defaults
    of `config_type`. `config_type` validates the result in its `__post_init__` once, after the three are merged.
    `--help` prints every field with its documentation and default. Every command accepts `--debug`; `clmr_tf.console`
    acts on it.

    Args:
        config_type: A dataclass whose fields have defaults and docstrings.
        arguments: The command line without the program's name.
        program: Name of the command, for `--help`.
        description: What it does, for `--help`.

    Raises:
        UsageError: For a file that cannot be read, an unknown key or option (naming the nearest), a wrong type, an
            empty argument, or values that `config_type` rejects.
        SystemExit: With code 0, after `--help`.
    """
    arguments = list(arguments)
    _refuse_empty(arguments)
    path = _path_after_config(arguments)
    defaults = config_type() if path is None else _unvalidated(config_type, _read_values(config_type, path))

    @dataclasses.dataclass(frozen=True)
    class Options:
        config: Path | None = None
        """YAML or JSON file with any of the options below; the command line overrides it."""
        debug: bool = False
        """Show the whole traceback of an error."""
        settings: Annotated[config_type, tyro.conf.arg(name="")] = defaults  # type: ignore[valid-type] # known at run time

    try:
        # The parser's own error message fills half a screen.
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


def _read_values(config_type: type, path: Path) -> dict[str, Any]:
    """The values in a configuration file, each checked for its type but not validated together."""
    # Imported late, because few commands are given a file.
    import yaml

    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).replace("\n", " ")
        raise UsageError(f"The configuration file {path} cannot be read: {reason}.") from error
    return _values_of(config_type, {} if plain is None else plain, str(path))


def _unvalidated(config_type: type[Config], values: Mapping[str, Any]) -> Config:
    """A configuration without validation, because the command line may still override values."""
    config = object.__new__(config_type)
    for field in dataclasses.fields(config_type):
        if field.name in values:
            value = values[field.name]
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            value = field.default
        # The classes are frozen.
        object.__setattr__(config, field.name, value)
    return config


def from_json(config_type: type[Config], plain: Any, *, where: str) -> Config:
    """Creates a dataclass from JSON or YAML data, checking names and types.

    Args:
        config_type: A dataclass.
        plain: A mapping from field names to values.
        where: Name of the data in an error.

    Raises:
        UsageError: If `plain` is not a mapping, has an unknown key (naming the nearest), a wrong type, or values that
            `config_type` rejects.
    """
    return config_type(**_values_of(config_type, plain, where))


def _values_of(config_type: type, plain: Any, where: str) -> dict[str, Any]:
    if not isinstance(plain, Mapping):
        raise UsageError(f"{where} must hold settings as `name: value`; received {type(plain).__name__}.")
    hints = typing.get_type_hints(config_type)
    names = [field.name for field in dataclasses.fields(config_type)]
    values = {}
    for key, value in plain.items():
        name = str(key).replace("-", "_")
        if name in ("config", "debug"):
            raise UsageError(f"{where}: `{key}` is for the command line only; remove it from the file.")
        if name not in names:
            advice = suggestion(name, names, f"known settings are {', '.join(names)}.")
            raise UsageError(f"{where}: unknown setting `{key}`; {advice}")
        values[name] = _coerce(hints[name], value, f"{where}: `{key}`")
    return values


def to_json(config: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON data, which `from_json` reads back."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def _refuse_empty(arguments: Sequence[str]) -> None:
    # For example from an unset shell variable; as a path, it would mean the current folder.
    if any(argument == "" or (argument.startswith("--") and argument.endswith("=")) for argument in arguments):
        raise UsageError(f"An argument is empty: `{shlex.join(arguments)}`; give it a value or remove it.")


def _path_after_config(arguments: Sequence[str]) -> Path | None:
    path = None
    # The last one counts, as for every option.
    for argument, following in itertools.pairwise([*arguments, "--"]):
        if argument == "--config" and not following.startswith("--"):
            path = Path(following)
        elif argument.startswith("--config="):
            path = Path(argument.removeprefix("--config="))
    return path


def _refused_option(config_type: type, argument: str, program: str) -> str:
    if not argument.startswith("-"):
        return f"Unexpected argument `{argument}`; see {program} --help."
    option = argument.partition("=")[0].removeprefix("--")
    hints = {**typing.get_type_hints(config_type), "config": Path, "debug": bool, "help": None}
    options = [name.replace("_", "-") for name in hints]
    options += [f"no-{name.replace('_', '-')}" for name, hint in hints.items() if hint is bool]
    # Compared without the dashes, which would make all short options similar.
    advice = suggestion(option, options, "--help lists all options.", prefix="--")
    return f"Unknown option `--{option}`; {advice}"


def _refused_value(config_type: type, arguments: Sequence[str]) -> str:
    """Names the value that the parser rejected, with the same message as for a file."""
    hints = {**typing.get_type_hints(config_type), "config": Path}
    for index, argument in enumerate(arguments):
        option, has_value, value = argument.partition("=")
        hint = hints.get(option.removeprefix("--").replace("-", "_"), bool) if option.startswith("--") else bool
        if hint is bool:
            continue
        behind = itertools.takewhile(lambda word: not word.startswith("--"), arguments[index + 1 :])
        values = [value] if has_value else list(behind)
        if typing.get_origin(hint) is tuple:
            hint = typing.get_args(hint)[0]
        elif not values:
            return f"`{option}` needs a value; see --help."
        else:
            # Whatever follows does not belong to this option.
            values = values[:1]
        for text in values:
            try:
                _coerce(hint, _read_as(hint, text), f"`{option}`")
            except UsageError as error:
                return str(error)
    return f"The options {' '.join(arguments)} cannot be parsed; see --help."


def _read_as(hint: Any, text: str) -> Any:
    """A word of the command line as YAML would read it: an integer where `hint` allows one, otherwise text."""
    choices = typing.get_args(hint)
    if type(None) in choices:
        return None if text == "None" else _read_as(next(one for one in choices if one is not type(None)), text)
    if hint is int or any(isinstance(choice, int) for choice in choices):
        with contextlib.suppress(ValueError):
            return int(text)
    return text


def _coerce(hint: Any, value: Any, where: str) -> Any:
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        of_something = next(choice for choice in choices if choice is not type(None))
        return None if value is None and type(None) in choices else _coerce(of_something, value, where)
    if origin is typing.Literal:
        # Compares types too: 22050.0 equals 22050, but TensorFlow does not accept it as a sample rate.
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            raise UsageError(f"{where} must be one of {list(choices)}; received {value!r}.")
        return value
    if hint is Path and isinstance(value, str) and value:
        return Path(value).expanduser()
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        # YAML 1.1 reads 3e-4 as a string, because it has no point.
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


_ROOT = Path(__file__).parents[2]
_IN_CHECKOUT = _ROOT / "savedmodels" / "music-small"
INCLUDED_MODEL = _IN_CHECKOUT if _IN_CHECKOUT.is_dir() else _ROOT / "clmr_tf" / "included_model"
"""The default model of `embed`, `tag` and `similar`; an installation has only its files for LiteRT, see setup.py."""

Runtime = Literal["auto", "tensorflow", "litert", "litert-int8", "onnx"]
"""What can run a model, see `clmr_tf.inference.encoder.load_encoder`."""


def require_model(folder: Path) -> Path:
    """The folder of --model with ~ expanded; call it before anything slow is imported.

    Raises:
        UsageError: If it does not exist.
    """
    expanded = folder.expanduser()
    if not expanded.exists():
        raise UsageError(
            f"The model {folder} does not exist; use --model with a folder that `python -m clmr_tf.export` or "
            "`python -m clmr_tf.train` wrote."
        )
    return expanded
