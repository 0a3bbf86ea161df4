"""Settings of the augmentation chain: presets, ranges, and changes to them."""

import contextlib
import dataclasses
import math
import typing
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import yaml

from clmr_tf.errors import UsageError, suggestion

# The position of a name decides which random numbers of a view it gets: append, never insert or sort.
AUGMENTATION_NAMES = ("polarity", "noise", "gain", "filter", "delay", "pitch", "reverb")


class Limits(typing.NamedTuple):
    """Annotates a field with the limits of its number or range."""

    lowest: float
    highest: float


Probability = Annotated[float, Limits(0, 1)]


def _check_type(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise UsageError(f"{name} must be of type {kind.__name__}; received {value!r}.")


def _check_number(name: str, value: Any, limits: Limits) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{name} must be a finite number; received {value!r}.")
    if not limits.lowest <= value <= limits.highest:
        raise UsageError(f"{name} must be between {limits.lowest} and {limits.highest}; received {value}.")


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers to draw from, each with the same probability.

    Attributes:
        minimum: Smallest number.
        maximum: Largest number.
        step: 0 for any number in between; otherwise minimum, minimum + step, ... up to maximum.
    """

    minimum: float
    maximum: float
    step: float = 0.0

    def __post_init__(self) -> None:
        """Raises UsageError if this is not a range."""
        for field in dataclasses.fields(self):
            _check_number(field.name, getattr(self, field.name), Limits(-math.inf, math.inf))
        if self.minimum > self.maximum:
            raise UsageError(f"minimum {self.minimum} is above maximum {self.maximum}; swap them.")
        if self.step < 0:
            raise UsageError(f"step must not be negative; received {self.step}, use 0 for any number.")


@dataclasses.dataclass(frozen=True)
class _Settings:
    def __post_init__(self) -> None:
        """Raises UsageError for a wrong type or a value outside its limits."""
        for name, hint in typing.get_type_hints(type(self), include_extras=True).items():
            kind, limits = typing.get_args(hint)
            value = getattr(self, name)
            if kind is Range:
                _check_type(name, value, Range)
                _check_number(f"{name}.minimum", value.minimum, limits)
                _check_number(f"{name}.maximum", value.maximum, limits)
            else:
                _check_number(name, value, limits)


@dataclasses.dataclass(frozen=True)
class PolarityConfig(_Settings):
    """Inverts the sign of every sample."""

    probability: Probability = 0.8


@dataclasses.dataclass(frozen=True)
class NoiseConfig(_Settings):
    """White Gaussian noise; `noise_to_signal` is the ratio of its standard deviation to the clip's (0.01: -40 dB)."""

    probability: Probability = 0.01
    noise_to_signal: Annotated[Range, Limits(0, math.inf)] = Range(1e-4, 1e-2)


@dataclasses.dataclass(frozen=True)
class GainConfig(_Settings):
    """Changes the level by `gain_db`."""

    probability: Probability = 0.3
    gain_db: Annotated[Range, Limits(-120, 120)] = Range(-20, -1)


@dataclasses.dataclass(frozen=True)
class FilterConfig(_Settings):
    """A low-pass with probability `lowpass_chance`, otherwise a high-pass.

    Cutoffs below 1 Hz are rejected here, those above half the sample rate by the chain.
    """

    probability: Probability = 0.8
    lowpass_chance: Probability = 0.5
    lowpass_cutoff_hz: Annotated[Range, Limits(1, math.inf)] = Range(2200, 4000)
    highpass_cutoff_hz: Annotated[Range, Limits(1, math.inf)] = Range(200, 1200)


@dataclasses.dataclass(frozen=True)
class DelayConfig(_Settings):
    """One echo after `delay_ms` with the amplitude `volume`; the sum is halved."""

    probability: Probability = 0.3
    delay_ms: Annotated[Range, Limits(0, math.inf)] = Range(200, 450, step=50)
    volume: Annotated[float, Limits(0, 1)] = 0.5


@dataclasses.dataclass(frozen=True)
class PitchConfig(_Settings):
    """Shifts the pitch by `cents`, hundredths of a semitone; length and tempo stay the same."""

    probability: Probability = 0.6
    cents: Annotated[Range, Limits(-1200, 1200)] = Range(-700, 700, step=1)


@dataclasses.dataclass(frozen=True)
class ReverbConfig(_Settings):
    """Reverb with sox's three parameters, in percent."""

    probability: Probability = 0.6
    reverberance: Annotated[Range, Limits(0, 100)] = Range(0, 99, step=1)
    damping: Annotated[Range, Limits(0, 100)] = Range(0, 99, step=1)
    room_scale: Annotated[Range, Limits(0, 100)] = Range(0, 99, step=1)


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """The chain after the random crop. The defaults are the preset `released`.

    Attributes:
        order: All of AUGMENTATION_NAMES, in the order in which they are applied.
        asymmetric: Augment only the first of the two views of a recording; the second is the crop itself (as in the
            published ablation). The caller of the chain says which rows are first views.
    """

    polarity: PolarityConfig = PolarityConfig()
    noise: NoiseConfig = NoiseConfig()
    gain: GainConfig = GainConfig()
    filter: FilterConfig = FilterConfig()
    delay: DelayConfig = DelayConfig()
    pitch: PitchConfig = PitchConfig()
    reverb: ReverbConfig = ReverbConfig()
    order: tuple[str, ...] = AUGMENTATION_NAMES
    asymmetric: bool = False

    def __post_init__(self) -> None:
        """Raises UsageError for a wrong type, or an order that does not name every augmentation once."""
        for name, hint in typing.get_type_hints(type(self)).items():
            _check_type(name, getattr(self, name), typing.get_origin(hint) or hint)
        if sorted(map(str, self.order)) != sorted(AUGMENTATION_NAMES):
            raise UsageError(
                f"order must name each of {', '.join(AUGMENTATION_NAMES)} once; received {list(self.order)} "
                "(probability 0 leaves one out)."
            )


def augmentation_preset(name: str) -> AugmentationConfig:
    """Returns a preset: `released`, `thesis`, `none`, or `only-NAME` for each of AUGMENTATION_NAMES.

    `none` is the crop itself. `only-NAME` is a row of the published ablation: this augmentation with probability 1 on
    every first view, the crop itself as the second.

    Raises:
        UsageError: If there is no such preset; suggests the nearest.
    """
    presets = {"released": AugmentationConfig(), "thesis": _thesis(), "none": _only(None)}
    presets |= {f"only-{augmentation}": _only(augmentation) for augmentation in AUGMENTATION_NAMES}
    if name not in presets:
        raise UsageError(
            f"There is no augmentation preset {name!r}; "
            + suggestion(name, presets, f"there are {', '.join(presets)}.")
        )
    return presets[name]


def _thesis() -> AugmentationConfig:
    percent = Range(0, 100)
    return AugmentationConfig(
        noise=NoiseConfig(noise_to_signal=Range(1e-4, 1e-4)),
        gain=GainConfig(gain_db=Range(-6, 0)),
        delay=DelayConfig(delay_ms=Range(200, 500, step=50)),
        pitch=PitchConfig(cents=Range(-700, 700)),
        reverb=ReverbConfig(reverberance=percent, damping=percent, room_scale=percent),
    )


def _only(name: str | None) -> AugmentationConfig:
    released = AugmentationConfig()
    parts = {
        other: dataclasses.replace(getattr(released, other), probability=float(other == name))
        for other in AUGMENTATION_NAMES
    }
    return AugmentationConfig(**parts, asymmetric=name is not None)


def augmentation_config(preset: str, changes: Sequence[str] = ()) -> AugmentationConfig:
    """Returns a preset with changed settings.

    Args:
        preset: A name that `augmentation_preset` accepts.
        changes: Each `AUGMENTATION.SETTING=VALUE`, `order=[...]` or `asymmetric=true`. Values are YAML; a range is
            `[minimum, maximum]` or `[minimum, maximum, step]`.

    Raises:
        UsageError: If there is no such preset or setting (suggesting the nearest), or a value is invalid.
    """
    config = augmentation_preset(preset)
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise UsageError(
                f"An augmentation change must be NAME=VALUE, such as pitch.probability=0.5; received {change!r}."
            )
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:
            raise UsageError(f"The value of {change!r} cannot be read; write it as in YAML.") from error
        try:
            config = _changed(config, name.strip(), _with_numbers(value))
        except (UsageError, OverflowError) as error:
            raise UsageError(f"{change!r} is invalid: {error}") from error
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
    """Converts text that is a number: YAML 1.1 reads 1e-4, which has no decimal point, as text."""
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
