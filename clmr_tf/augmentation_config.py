"""What the augmentation chain does: probabilities, ranges, order, and the presets by name.

Two codes and a thesis stand behind CLMR. The preset `released` follows the released code (CLMR 2.x with
torchaudio-augmentations 0.2.4), `thesis` the text of the thesis (Spijkervet 2021). Where the sources differ:

    noise    released: ratio U[1e-4, 1e-2] of the clip's standard deviation, 80 to 40 dB. Thesis: 80 dB. The
             code of the published experiments ("v1") had it switched off; its "80 dB" came out as 40 dB.
    gain     released and v1: -20 to -1 dB (v1 in whole dB). Thesis, and v1 until July 2020: -6 to 0 dB.
    filter   the same ranges in all; v1 has Essentia's recursive filters, released julius' FIR filters.
    delay    thesis: 200 to 500 ms. In the codes the end of the range is left out: 450 ms is the longest.
             Volume 0.5; v1 from August 2020 on 0.2.
    pitch    a fifth up or down in all; the codes draw whole cents.
    reverb   thesis: U[0, 100]. Released: whole numbers 0 to 99. v1: 1 to 100.
"""

import dataclasses
import math
import typing
from typing import Annotated, Any

from clmr_tf.errors import UsageError, suggestion

# A name's place chooses which of a view's random numbers are its own: append, never insert or sort.
AUGMENTATION_NAMES = ("polarity", "noise", "gain", "filter", "delay", "pitch", "reverb")


class Limits(typing.NamedTuple):
    """Annotates a field: its number, or its whole range, must lie between these."""

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
    """Numbers to draw from, each with the same chance.

    Attributes:
        minimum: Smallest number.
        maximum: Largest number.
        step: 0 draws any number between the two; otherwise minimum, minimum + step, ... up to maximum.
    """

    minimum: float
    maximum: float
    step: float = 0.0

    def __post_init__(self) -> None:
        """Raises UsageError if this is no range."""
        for field in dataclasses.fields(self):
            _check_number(field.name, getattr(self, field.name), Limits(-math.inf, math.inf))
        if self.minimum > self.maximum:
            raise UsageError(f"minimum {self.minimum} is above maximum {self.maximum}; exchange them.")
        if self.step < 0:
            raise UsageError(f"step must not be negative; received {self.step}, use 0 for any number.")


@dataclasses.dataclass(frozen=True)
class _Settings:
    def __post_init__(self) -> None:
        """Raises UsageError for a wrong type or a value out of its limits."""
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
    """The sign of every sample changes."""

    probability: Probability = 0.8


@dataclasses.dataclass(frozen=True)
class NoiseConfig(_Settings):
    """White Gaussian noise; `noise_to_signal` is its standard deviation over the clip's (0.01 is 40 dB)."""

    probability: Probability = 0.01
    noise_to_signal: Annotated[Range, Limits(0, math.inf)] = Range(1e-4, 1e-2)


@dataclasses.dataclass(frozen=True)
class GainConfig(_Settings):
    """Louder or softer by `gain_db`."""

    probability: Probability = 0.3
    gain_db: Annotated[Range, Limits(-120, 120)] = Range(-20, -1)


@dataclasses.dataclass(frozen=True)
class FilterConfig(_Settings):
    """A low-pass with probability `lowpass_chance`, otherwise a high-pass.

    Cutoffs below 1 Hz are refused here, those above half the sample rate by the chain, which knows the rate.
    """

    probability: Probability = 0.8
    lowpass_chance: Probability = 0.5
    lowpass_cutoff_hz: Annotated[Range, Limits(1, math.inf)] = Range(2200, 4000)
    highpass_cutoff_hz: Annotated[Range, Limits(1, math.inf)] = Range(200, 1200)


@dataclasses.dataclass(frozen=True)
class DelayConfig(_Settings):
    """One echo after `delay_ms`, `volume` times as loud; the sum is halved."""

    probability: Probability = 0.3
    delay_ms: Annotated[Range, Limits(0, math.inf)] = Range(200, 450, step=50)
    volume: Annotated[float, Limits(0, 1)] = 0.5


@dataclasses.dataclass(frozen=True)
class PitchConfig(_Settings):
    """Higher or lower by `cents`, hundredths of a semitone; length and speed stay."""

    probability: Probability = 0.6
    cents: Annotated[Range, Limits(-1200, 1200)] = Range(-700, 700, step=1)


@dataclasses.dataclass(frozen=True)
class ReverbConfig(_Settings):
    """A room; its three parameters are those of sox, in percent."""

    probability: Probability = 0.6
    reverberance: Annotated[Range, Limits(0, 100)] = Range(0, 99, step=1)
    damping: Annotated[Range, Limits(0, 100)] = Range(0, 99, step=1)
    room_scale: Annotated[Range, Limits(0, 100)] = Range(0, 99, step=1)


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """The chain after the random crop. The defaults are the preset `released`.

    Attributes:
        order: All of AUGMENTATION_NAMES, in the order in which they are applied.
        asymmetric: Of the two views of a recording only the first is augmented, the second is the crop
            alone (the published ablation). The chain has to be told which rows those are.
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
        """Raises UsageError if a part is of a wrong type or the order is not one of all augmentations."""
        for name, hint in typing.get_type_hints(type(self)).items():
            _check_type(name, getattr(self, name), typing.get_origin(hint) or hint)
        if sorted(map(str, self.order)) != sorted(AUGMENTATION_NAMES):
            raise UsageError(
                f"order must name each of {', '.join(AUGMENTATION_NAMES)} once; received {list(self.order)} "
                "(probability 0 leaves one out)."
            )


def augmentation_preset(name: str) -> AugmentationConfig:
    """Returns a preset: `released`, `thesis`, `none`, or `only-NAME` for each of AUGMENTATION_NAMES.

    `none` is the crop alone. `only-NAME` is a row of the published ablation: this augmentation on every first
    view (probability 1), the crop alone as the second.

    Raises:
        UsageError: If there is no such preset; names the nearest.
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
