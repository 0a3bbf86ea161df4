"""The augmentation settings: published numbers, and errors for invalid settings."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

import clmr_tf
from clmr_tf.config.augmentation import (
    AUGMENTATION_NAMES,
    AugmentationConfig,
    DelayConfig,
    FilterConfig,
    GainConfig,
    PolarityConfig,
    Range,
    ReverbConfig,
    augmentation_preset,
)
from clmr_tf.errors import UsageError

PROBABILITIES = {
    "polarity": 0.8,
    "noise": 0.01,
    "gain": 0.3,
    "filter": 0.8,
    "delay": 0.3,
    "pitch": 0.6,
    "reverb": 0.6,
}


def probabilities(config):
    return {name: getattr(config, name).probability for name in AUGMENTATION_NAMES}


def test_released_preset_has_the_numbers_of_the_released_code():
    config = augmentation_preset("released")
    assert config == AugmentationConfig()
    assert probabilities(config) == PROBABILITIES
    assert config.order == ("polarity", "noise", "gain", "filter", "delay", "pitch", "reverb")
    assert not config.asymmetric
    assert config.noise.noise_to_signal == Range(0.0001, 0.01)
    assert config.gain.gain_db == Range(-20, -1)
    assert config.filter.lowpass_chance == 0.5
    assert config.filter.lowpass_cutoff_hz == Range(2200, 4000)
    assert config.filter.highpass_cutoff_hz == Range(200, 1200)
    assert config.delay.delay_ms == Range(200, 450, 50)
    assert config.delay.volume == 0.5
    assert config.pitch.cents == Range(-700, 700, 1)
    assert {config.reverb.reverberance, config.reverb.damping, config.reverb.room_scale} == {Range(0, 99, 1)}


def test_thesis_preset_has_the_numbers_of_the_thesis():
    config = augmentation_preset("thesis")
    assert probabilities(config) == PROBABILITIES
    assert config.noise.noise_to_signal == Range(1e-4, 1e-4)  # 80 dB
    assert config.gain.gain_db == Range(-6, 0)
    assert config.filter == AugmentationConfig().filter
    assert config.delay == DelayConfig(0.3, Range(200, 500, 50), 0.5)
    assert config.pitch.cents == Range(-700, 700)
    assert {config.reverb.reverberance, config.reverb.damping, config.reverb.room_scale} == {Range(0, 100)}


def test_none_preset_disables_every_augmentation():
    config = augmentation_preset("none")
    assert set(probabilities(config).values()) == {0}
    assert not config.asymmetric


@pytest.mark.parametrize("name", AUGMENTATION_NAMES)
def test_only_presets_have_one_certain_augmentation_and_are_asymmetric(name):
    config = augmentation_preset(f"only-{name}")
    assert probabilities(config) == {other: float(other == name) for other in AUGMENTATION_NAMES}
    assert config.asymmetric
    released = dataclasses.replace(getattr(AugmentationConfig(), name), probability=1.0)
    assert getattr(config, name) == released


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("relased", "released"), ("only-reverbs", "only-reverb"), ("non", "none")]
)
def test_unknown_preset_is_rejected_with_a_suggestion(wrong, nearest):
    with pytest.raises(UsageError, match=f"did you mean `{nearest}`"):
        augmentation_preset(wrong)
    with pytest.raises(UsageError, match=r"no augmentation preset 'zzz'; there are released, thesis, none, only-"):
        augmentation_preset("zzz")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Range(0, -6), "minimum 0 is above maximum -6"),
        (lambda: Range(1, 5, -1), "step must not be negative"),
        (lambda: GainConfig(1.01), "probability must be between 0 and 1; received 1.01"),
        (lambda: GainConfig("often"), "probability must be a finite number; received 'often'"),
        (lambda: GainConfig(True), "probability must be a finite number; received True"),
        (lambda: GainConfig(float("nan")), "probability must be a finite number; received nan"),
        (lambda: DelayConfig(volume=-0.1), "volume must be between 0 and 1; received -0.1"),
        (lambda: DelayConfig(delay_ms=Range(-1, 5)), "delay_ms.minimum must be between 0 and inf"),
        (lambda: ReverbConfig(damping=Range(0, 101)), "damping.maximum must be between 0 and 100"),
        (lambda: FilterConfig(lowpass_chance=2), "lowpass_chance must be between 0 and 1"),
        (lambda: AugmentationConfig(asymmetric="no"), "asymmetric must be of type bool; received 'no'"),
        (lambda: AugmentationConfig(order="gain"), "order must be of type tuple; received 'gain'"),
        (lambda: AugmentationConfig(order=("gain",)), "order must name each of polarity.* once"),
        (lambda: AugmentationConfig(order=("gain", *AUGMENTATION_NAMES)), "order must name each of"),
        (lambda: AugmentationConfig(order=(1, *AUGMENTATION_NAMES[1:])), "order must name each of"),
    ],
)
def test_invalid_settings_are_rejected_in_one_sentence(make, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        make()
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_invalid_types_and_values_are_rejected_in_python():
    with pytest.raises(UsageError, match="gain_db must be of type Range"):
        GainConfig(0.3, (-20, -1))
    with pytest.raises(UsageError, match="probability must be between 0 and 1"):
        PolarityConfig(-0.1)
    with pytest.raises(UsageError, match="gain must be of type GainConfig"):
        AugmentationConfig(gain=PolarityConfig())
    with pytest.raises(UsageError, match="maximum must be a finite number"):
        Range(0, float("inf"))


def test_settings_do_not_import_tensorflow():
    program = "import sys, clmr_tf.config.augmentation; sys.exit('tensorflow' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(clmr_tf.__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 0
