"""Single settings of an augmentation preset, changed by name: `pitch.cents=[-500, 500]`."""

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from clmr_tf.augmentation_config import AUGMENTATION_NAMES, AugmentationConfig, Range, augmentation_preset
from clmr_tf.errors import UsageError, suggestion


def augmentation_config(preset: str, changes: Sequence[str] = ()) -> AugmentationConfig:
    """Returns a preset with some of its settings changed.

    Args:
        preset: A name that `augmentation_preset` knows.
        changes: Each `AUGMENTATION.SETTING=VALUE`, `order=[...]` or `asymmetric=true`. A value is written as in
            YAML; that of a range is `[minimum, maximum]` or `[minimum, maximum, step]`.

    Raises:
        UsageError: If there is no such preset or setting (naming the nearest), or a value cannot be.
    """
    config = augmentation_preset(preset)
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise UsageError(
                f"A change of the augmentation is NAME=VALUE, such as pitch.probability=0.5; received {change!r}."
            )
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:
            raise UsageError(f"The value of {change!r} cannot be read; write it as in YAML.") from error
        try:
            config = _changed(config, name.strip(), _with_numbers(value))
        except (UsageError, OverflowError) as error:
            raise UsageError(f"{change!r} cannot be: {error}") from error
    return config


def _changed(config: AugmentationConfig, name: str, value: Any) -> AugmentationConfig:
    part_name, dot, setting = name.partition(".")
    if name == "order":
        return dataclasses.replace(config, order=tuple(value) if isinstance(value, list) else value)
    if name == "asymmetric":
        return dataclasses.replace(config, asymmetric=value)
    if not dot or part_name not in AUGMENTATION_NAMES:
        settings = [f"{part}.{field}" for part in AUGMENTATION_NAMES for field in _settings_of(getattr(config, part))]
        raise _unknown(name, ["order", "asymmetric", *settings])
    part = getattr(config, part_name)
    if setting not in _settings_of(part):
        raise _unknown(name, [f"{part_name}.{field}" for field in _settings_of(part)])
    if isinstance(getattr(part, setting), Range):
        if not isinstance(value, list) or len(value) not in (2, 3):
            raise UsageError(f"{name} is a range, [minimum, maximum] or [minimum, maximum, step]; received {value!r}.")
        value = Range(*value)
    return dataclasses.replace(config, **{part_name: dataclasses.replace(part, **{setting: value})})


def _with_numbers(value: Any) -> Any:
    """The value with text that is a number made one: YAML 1.1 reads 1e-4 as text, for want of a point."""
    if isinstance(value, list):
        return [_with_numbers(one) for one in value]
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _settings_of(part: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(part)]


def _unknown(name: str, names: Iterable[str]) -> UsageError:
    names = list(names)
    advice = suggestion(name, names, f"there are {', '.join(names)}.")
    return UsageError(f"there is no augmentation setting {name!r}; {advice}")
